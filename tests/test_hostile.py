"""Files that want more than to be read: code that would run, names that are commands, secrets that would leak."""

import json
import os
import pickle
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from clpds.checkpoint import open_checkpoint
from clpds.data.read import stream_documents
from clpds.errors import UserError
from clpds.recipe import load_recipe
from clpds.vocabulary.static import read_static
from clpds.vocabulary.tokenizer import load_tokenizer
from tests.launcher.test_submit import RECIPE, dry_run, scripts
from tests.test_cli import call
from tests.tiny import save_model, tiny_model, tiny_tokenizer

CODE = "from pathlib import Path\nPath('mark').touch()\n"


class Evil:
    """What pickle runs when it loads this: leave a mark."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("mark",)


def saved(file: Path) -> None:
    torch.save({"x": Evil()}, file)


def pickled(file: Path) -> None:
    file.write_bytes(pickle.dumps(Evil()))


@pytest.mark.parametrize("save", [saved, pickled])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("pytorch_model.bin", lambda file: open_checkpoint(file.parent)),
        ("model.safetensors", lambda file: open_checkpoint(file.parent)),
        ("model.gguf", open_checkpoint),
        ("words.bin", read_static),
        ("words.vec", read_static),
        ("text.parquet", lambda file: list(stream_documents([file]))),
        ("text.jsonl", lambda file: list(stream_documents([file]))),
        ("tokenizer.model", lambda file: load_tokenizer(file.parent)),
    ],
)
def test_no_file_runs_code_when_it_is_read(
    name: str,
    read: Callable[[Path], object],
    save: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    tiny_model("llama", 97).config.save_pretrained(folder)
    save(folder / name)
    with pytest.raises(UserError, match=r"model"):
        read(folder / name)
    assert not (tmp_path / "mark").exists()
    with (folder / name).open("rb") as stream:
        torch.load(stream, weights_only=False) if save is saved else pickle.load(stream)
    assert (tmp_path / "mark").exists()  # the file was a working one


@pytest.mark.parametrize("kind", ["config", "tokenizer_config"])
def test_code_beside_a_model_is_not_trusted(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files name a class of ``mine.py``, which stands beside them; trust_remote_code would import it."""
    monkeypatch.chdir(tmp_path)
    folder = save_model(tmp_path / "model", tiny_model("llama", 97), tiny_tokenizer("byte_bpe", vocab_size=300))
    (folder / "mine.py").write_text(CODE)
    own: dict[str, dict[str, Any]] = {
        "config": {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}},
        "tokenizer_config": {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}},
    }
    file = folder / f"{kind}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | own[kind]))
    with suppress(UserError):  # or the folder opens without that code
        open_checkpoint(folder) if kind == "config" else load_tokenizer(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [mark]", "!!python/name:os.mkdir", "!x mark"])
def test_yaml_builds_plain_values_only(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(f"steps:\n  a: {tag}\n")
    with pytest.raises(UserError, match=r"r\.yaml is not valid YAML"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(UserError, match="is not valid YAML"):
        load_recipe(Path("demo.yaml"), [f"data.out={tag}"])
    assert not (tmp_path / "mark").exists()


MARKS = [
    "; touch mark",
    "$(touch mark)",
    "`touch mark`",
    "' touch mark '",
    '" & touch mark & "',
    "| touch mark",
    "> mark",
]


@pytest.mark.parametrize("evil", MARKS)
def test_no_name_becomes_a_command_in_a_batch_script(evil: str, tmp_path: Path) -> None:
    """Recipe, folders, overrides and values of a profile have it in their names; the scripts run under a real bash."""
    here = tmp_path / f"x{evil}"
    here.mkdir()
    steps = {name: step | {"out": f"runs/{name}{evil}"} for name, step in RECIPE.items()}
    profile = {"train": {}, "cpu": {}, "array": 2, "environment": {"A": evil}, "scratch": str(here)}
    done = dry_run(here, profile, f"data.text_key={json.dumps(evil)}", steps=steps)
    assert done.returncode == 0, done.stderr
    texts = scripts(done.stdout)
    assert len(texts) == len(RECIPE) + 2
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "clpds").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$TOLD"\n')
    (tmp_path / "bin" / "clpds").chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "TOLD": str(tmp_path / "told")}
    environment |= {"SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_PER_TASK": "1"}
    for text in texts.values():
        (tmp_path / "job.sh").write_text(text.split("\n", 1)[1])
        subprocess.run(["bash", "../job.sh"], cwd=here, env=environment, check=True, capture_output=True)
        assert evil in (tmp_path / "told").read_text()  # the name arrived as it was written
    assert not list(tmp_path.rglob("mark"))


def test_names_with_marks_of_the_screen_are_printed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = {"[x]": {"verb": "convert", "model": "no/such/[/y]", "out": "o"}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"steps": steps}))
    assert call(monkeypatch, "run", "r.yaml") == 2
    err = capsys.readouterr().err
    assert "[1/1] [x]" in err
    assert err.endswith("clpds run: error: no/such/[/y] does not exist\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stage.json").write_text('{"steps": 3}')
    (tmp_path / "run" / "state.json").write_text(json.dumps({"state": "failed", "reason": "[/z] is gone"}))
    assert call(monkeypatch, "status", "run") == 0
    assert "failed: [/z] is gone" in capsys.readouterr().out


def test_secrets_of_the_environment_are_written_nowhere(tmp_path: Path) -> None:
    secrets = {"HF_TOKEN": "hf_secret1", "WANDB_API_KEY": "secret2", "HUGGING_FACE_HUB_TOKEN": "hf_secret3"}
    tokenizer = tiny_tokenizer("byte_bpe", vocab_size=300)
    save_model(tmp_path / "model", tiny_model("llama", 300), tokenizer)
    (tmp_path / "de.txt").write_text("Am Anfang schuf Gott\n" * 40)
    recipe = {
        "data": {
            "verb": "data", "input": ["de.txt"], "tokenizer": "model", "sequence_length": 8, "out": "data",
            "workers": 1, "validation_fraction": 0,
        },
        "train": {
            "verb": "train", "model": "model", "data": {"de": {"path": "data"}}, "out": "run", "steps": 1,
            "micro_batch": 1, "global_batch": 1, "deepspeed": "cpu.json",
        },
        "german": {"verb": "convert", "model": "run", "out": "german"},
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"steps": recipe}, sort_keys=False))
    (tmp_path / "p.yaml").write_text("{train: {}, cpu: {}}")
    said = ""
    for words in ("submit r.yaml --profile p.yaml --dry-run", "run r.yaml --debug"):
        done = subprocess.run(
            [sys.executable, "-m", "clpds", *shlex.split(words)],
            cwd=tmp_path, env=os.environ | secrets, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    assert (tmp_path / "german" / "provenance.json").is_file()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in secrets.values():
        assert secret not in said
        assert not any(secret.encode() in content for content in written)
