"""What `clpds submit --dry-run` prints: the jobs of a recipe, by the shipped profiles, as batch scripts."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from clpds.recipe import read_yaml

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "recipes" / "clusters").glob("*.yaml"))
RECIPE: dict[str, dict[str, Any]] = {
    "tok": {"verb": "tokenizer", "input": ["de.txt"], "out": "runs/tok"},
    "data": {"verb": "data", "input": ["de.txt"], "tokenizer": "runs/tok", "sequence_length": 8, "out": "runs/data"},
    "source": {"verb": "convert", "model": "english.gguf", "out": "runs/source"},
    "clp": {"verb": "init", "source": "runs/source", "tokenizer": "runs/tok", "method": "mean", "out": "runs/clp"},
    "stage": {
        "verb": "train", "model": "runs/clp", "data": {"de": {"path": "runs/data"}}, "out": "runs/stage", "steps": 9,
        "micro_batch": 1, "global_batch": 8,
    },
    "german": {"verb": "convert", "model": "runs/stage", "out": "runs/german"},
    "eval": {"verb": "eval", "model": "runs/german", "data": "runs/data", "out": "runs/eval.json"},
}  # fmt: skip


def dry_run(folder: Path, profile: Any, *words: str, steps: Any = RECIPE) -> subprocess.CompletedProcess[str]:
    """The command in an otherwise empty folder."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))
    if not isinstance(profile, Path):
        (folder / "profile.yaml").write_text(profile if isinstance(profile, str) else yaml.safe_dump(profile))
        profile = "profile.yaml"
    command = [sys.executable, "-m", "clpds", "submit", "recipe.yaml", "--profile", str(profile), "--dry-run", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def scripts(printed: str) -> dict[str, str]:
    """Job name to its script, with the line that tells how it is submitted."""
    parts = re.split(r"^(?=# sbatch )", printed, flags=re.MULTILINE)[1:]
    return {match[1]: part for part in parts if (match := re.search(r"\d\d-([\w-]+)\.sbatch", part))}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_every_script_is_sound_shell(profile: Path, tmp_path: Path) -> None:
    own = read_yaml(profile) | {"scratch": str(tmp_path)}
    texts = scripts(dry_run(tmp_path, own).stdout)
    assert len(texts) == len(RECIPE) + (2 if own.get("array", 1) > 1 else 0)
    for name, text in texts.items():
        script = tmp_path / f"{name}.sh"
        script.write_text(text.split("\n", 1)[1])
        subprocess.run(["bash", "-n", script], check=True)
        if shutil.which("shellcheck"):
            # 1090, 1091: the file that setup reads is the site's
            subprocess.run(["shellcheck", "--shell=bash", "--exclude=SC1090,SC1091", script], check=True)


def test_jobs_wait_for_what_they_read_and_nothing_else(tmp_path: Path) -> None:
    texts = scripts(dry_run(tmp_path, {"train": {}, "cpu": {}, "array": 4}).stdout)
    after = {name: re.findall(r"<([\w-]+)>", text.split("\n", 1)[0]) for name, text in texts.items()}
    assert after == {
        "tok": [], "data-read": ["tok"], "data-share": ["data-read"], "data": ["data-share"], "source": [],
        "clp": ["tok", "source"], "stage": ["data", "clp"], "german": ["stage"], "eval": ["data", "german"],
    }  # fmt: skip
    assert "#SBATCH --array=1-4\n" in texts["data-share"]
    assert '"data.only=$SLURM_ARRAY_TASK_ID/4"' in texts["data-share"]


def test_only_training_asks_for_gpus_nodes_and_a_warning(tmp_path: Path) -> None:
    profile = {
        "account": "lab", "interface": "ib0", "environment": {"A": "b c"}, "signal_lead": 120, "requeue_limit": 7,
        "train": {"partition": "gpu", "nodes": 2, "gpus_per_node": 4, "cpus_per_task": 12, "qos": "long"},
        "cpu": {"partition": "cpu", "memory": "64G", "sbatch": ["--constraint=fast&big"]},
    }  # fmt: skip
    texts = scripts(dry_run(tmp_path, profile, "--nodes", "8", "--time", "2-00:00:00", "stage.steps=10").stdout)
    train, cpu, evaluation = texts["stage"], texts["clp"], texts["eval"]
    for line in ("--partition=gpu", "--nodes=8", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=12",
                 "--qos=long", "--time=2-00:00:00", "--signal=B:USR1@120", "--requeue"):  # fmt: skip
        assert f"#SBATCH {line}\n" in train
    for line in ("--partition=cpu", "--nodes=1", "--mem=64G", "--constraint=fast&big"):
        assert f"#SBATCH {line}\n" in cpu
    assert "gpu" not in cpu
    assert "--signal" not in cpu
    assert "#SBATCH --gpus-per-node=1\n" in evaluation
    for text in texts.values():
        assert "#SBATCH --account=lab\n" in text
        assert "export NCCL_SOCKET_IFNAME=ib0\n" in text
        assert "export A='b c'\n" in text
    command = shlex.split(train.strip().splitlines()[-1])
    assert command[:3] == ["exec", "clpds", "supervise"]
    assert command[4:7] == ["steps=10", "--step", "stage"]
    assert command[command.index("--requeue-limit") + 1] == "7"


def test_a_container_goes_before_the_command(tmp_path: Path) -> None:
    texts = scripts(dry_run(tmp_path, {"train": {}, "cpu": {}, "container": "apptainer exec --nv a.sif"}).stdout)
    assert "\napptainer exec --nv a.sif clpds run " in texts["clp"]
    assert "--container 'apptainer exec --nv a.sif'" in texts["stage"]


def test_a_dry_run_writes_nothing_and_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; from clpds.cli import main; main()\n"
        "heavy = {'torch', 'numpy', 'transformers', 'deepspeed', 'datasets'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    dry_run(tmp_path, {"train": {}, "cpu": {}})
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-c", program, "submit", "recipe.yaml", "--profile", "profile.yaml", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("train: {}\ncpu: {}\ngpus: 4", "profile.yaml: unknown key 'gpus'; did you mean 'gpu'?"),
        ("train: {gpus: 4}\ncpu: {}", "profile.yaml: unknown key 'train.gpus'; did you mean 'gres'?"),
        ("train: {nodes: 0}\ncpu: {}", "profile.yaml: 'train.nodes': Input should be greater than 0 (got 0)"),
        ("train: {time: a day}\ncpu: {}", "profile.yaml: 'train.time': "),
        ("train: {partition: a b}\ncpu: {}", "profile.yaml: 'train.partition': "),
        ("cpu: {}", "profile.yaml: key 'train' is missing"),
        ("- train", "profile.yaml: expected a mapping"),
        ("train: [", "profile.yaml is not valid YAML: "),
        (
            "train: {}\ncpu: {}\nscratch: /no/such",
            "profile.yaml: scratch is /no/such, which is no folder",
        ),
        (Path("absent.yaml"), "absent.yaml does not exist"),
        ("train: {time: 4}\ncpu: {}", "profile.yaml: the time limit 4 is 240 s, and Slurm warns signal_lead = 300 s"),
        ("train: {time: 6:00}\ncpu: {}", "profile.yaml: the time limit 6:00 is 360 s, and Slurm warns signal_lead"),
    ],
)
def test_a_bad_profile_is_one_line(profile: Any, said: str, tmp_path: Path) -> None:
    done = dry_run(tmp_path, profile)
    assert done.returncode == 2
    assert done.stderr.startswith(f"clpds submit: error: {said}")
    assert done.stderr.count("\n") == 1


def test_a_time_limit_with_colons_is_no_number(tmp_path: Path) -> None:
    texts = scripts(dry_run(tmp_path, "train: {time: 24:00:00}\ncpu: {time: 1:30}").stdout)
    assert "#SBATCH --time=24:00:00\n" in texts["stage"]
    assert "#SBATCH --time=1:30\n" in texts["clp"]


def test_a_time_limit_of_the_command_line_leaves_time_to_train(tmp_path: Path) -> None:
    profile = {"train": {}, "cpu": {}, "signal_lead": 3600}
    done = dry_run(tmp_path, profile, "--time", "1:01:00")
    assert done.returncode == 2
    assert done.stderr.startswith("clpds submit: error: --time: the time limit 1:01:00 is 3660 s")
    assert dry_run(tmp_path, profile, "--time", "62").returncode == 0
    assert dry_run(tmp_path, profile, "--time", "4", steps={"tok": RECIPE["tok"]}).returncode == 0  # nothing is warned


def test_a_step_name_that_is_no_word_is_refused(tmp_path: Path) -> None:
    done = dry_run(tmp_path, {"train": {}, "cpu": {}}, steps={"a\n#SBATCH --uid=0": RECIPE["tok"]})
    assert done.returncode == 2
    assert "cannot be a step's name" in done.stderr


def test_without_slurm_it_is_said(tmp_path: Path) -> None:
    dry_run(tmp_path, {"train": {}, "cpu": {}})
    command = [sys.executable, "-m", "clpds", "submit", "recipe.yaml", "--profile", "profile.yaml"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PATH": "", "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2
    assert "sbatch is not found: is this a machine of a Slurm cluster?" in done.stderr
    assert not (tmp_path / "runs").exists()


SECRETS = {"HF_TOKEN": "abc1", "WANDB_API_KEY": "abc2", "PROXY": "http://me:abc3@proxy:80", "X": "hf_" + "abc4" * 8}
HARMLESS = {
    "TOKENIZERS_PARALLELISM": "true",
    "KEYBOARD": "de",
    "MODEL": "runs/sk-wikipedia",
    "TOKEN_FILE": "/home/me/t",
}


def test_a_dry_run_hides_what_looks_secret_and_names_it(tmp_path: Path) -> None:
    setup = "export MY_PASSWORD='abc5 abc5'\nexport GH_TOKEN=$(cat ~/.gh)"
    profile = {
        "train": {},
        "cpu": {},
        "environment": SECRETS | HARMLESS,
        "setup": setup,
        "container": "c --env PAT=abc6",
    }
    done = dry_run(tmp_path, profile)
    assert done.returncode == 0
    assert "abc" not in done.stdout + done.stderr
    assert f"profile.yaml: MY_PASSWORD, {', '.join(sorted(SECRETS))}, PAT looks secret" in done.stderr
    assert done.stderr.count("\n") == 1
    for kept in [*HARMLESS.values(), "$(cat ~/.gh)"]:
        assert kept in done.stdout


@pytest.mark.parametrize(("environment", "mode"), [(SECRETS, "600"), (HARMLESS, "644")])
def test_scripts_with_secrets_are_for_their_owner(environment: dict[str, str], mode: str, tmp_path: Path) -> None:
    """A stand-in of sbatch, which is no part of this machine, says what it is given."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\nfor last; do :; done\nstat -c %a "$last" >> {tmp_path}/modes\necho 1\n')
    sbatch.chmod(0o755)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"steps": RECIPE}, sort_keys=False))
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"train": {}, "cpu": {}, "environment": environment}))
    done = subprocess.run(
        [sys.executable, "-m", "clpds", "submit", "r.yaml", "--profile", "p.yaml"],
        cwd=tmp_path, env=os.environ | {"PATH": f"{sbatch.parent}:/usr/bin:/bin"}, capture_output=True, text=True,
        umask=0o022,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("warning" in done.stderr) == (mode == "600")
    assert "abc" not in done.stdout + done.stderr
    assert (tmp_path / "modes").read_text().split() == [mode] * len(RECIPE)
    readable = [path for path in tmp_path.rglob("*") if path.is_file() and b"abc" in path.read_bytes()]
    if mode == "600":
        assert all(path.stat().st_mode & 0o77 == 0 for path in readable if path.name != "p.yaml")
