"""`clpds submit` and `clpds status` against a real Slurm: a whole recipe, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from clpds.recipe import Convert, Corpus, Data, Eval, Init, Saving, Step, Train
from tests.cluster.cluster import Cluster
from tests.cluster.submitting import clpds, submit, write_recipe
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer
from tests.training.stages import FP32_ZERO3


@pytest.fixture
def recipe(home: Path) -> dict[str, Step]:
    """From raw text and an English model to numbers about a German one."""
    english, german = tiny_tokenizer("byte_bpe", "en"), tiny_tokenizer("byte_bpe", "de")
    save_model(home / "source", tiny_model("llama", len(english)), english)
    save_model(home / "helper", tiny_model("gpt2", len(german)), german)
    (home / "de.jsonl").write_text("\n".join(json.dumps({"text": part[:400]}) for part in text("de", 60)))
    (home / "zero3.json").write_text(json.dumps(FP32_ZERO3))
    runs = Path("runs")
    return {
        "data": Data(
            input=(Path("de.jsonl"),), tokenizer=Path("helper"), sequence_length=64, validation_fraction=0.2,
            out=runs / "data",
        ),
        "clp": Init(source=Path("source"), helper=Path("helper"), out=runs / "clp"),
        "train": Train(
            model=runs / "clp", data={"german": Corpus(path=runs / "data")}, out=runs / "train", steps=6,
            micro_batch=2, global_batch=4, deepspeed=Path("zero3.json"), saving=Saving(every=3),
        ),
        "german": Convert(model=runs / "train", out=runs / "german", verify=True),
        "eval": Eval(model=runs / "german", data=runs / "data", out=runs / "eval.json"),
    }  # fmt: skip


def test_a_recipe_from_raw_text_to_numbers(cluster: Cluster, home: Path, recipe: dict[str, Step]) -> None:
    write_recipe(home, {"array": 3, "preflight": True}, **recipe)
    jobs = submit(cluster, home)
    assert list(jobs) == ["data-read", "data-share", "data", "clp", "train", "german", "eval"]
    for name, job in jobs.items():
        assert cluster.wait(job) == "COMPLETED", f"{name}:\n{cluster.log(job)}"
    AutoModelForCausalLM.from_pretrained(home / "runs/german")
    assert json.loads((home / "runs/eval.json").read_text())["bits_per_byte"] > 0

    told = clpds(cluster, home, "status", "runs/train").stdout
    for words in ("finished", "6 of 6 (100%)", "step-00000006", f"job {jobs['data-share']}", "eval: COMPLETED"):
        assert words in told
    again = clpds(cluster, home, "submit", "recipe.yaml", "--profile", "profile.yaml")
    assert again.returncode == 0
    assert "every step is done" in again.stderr


def test_a_folder_has_one_training_at_a_time(cluster: Cluster, task: Train, home: Path) -> None:
    write_recipe(home, train=replace(task, out=Path("run")))
    job = submit(cluster, home)["train"]
    again = clpds(cluster, home, "submit", "recipe.yaml", "--profile", "profile.yaml")
    assert again.returncode == 2
    assert (
        again.stderr
        == f"clpds submit: error: run is the folder of job {job}, still in the queue; wait, or scancel {job}\n"
    )
    by_hand = cluster.submit(*(str(path) for path in (home / "slurm").rglob("*-train.sbatch")), cwd=home)
    assert cluster.wait(by_hand) == "FAILED"
    assert f"run is the folder of job {job}" in cluster.log(by_hand)
    cluster.command("scancel", job)
    cluster.wait(job)
    after = submit(cluster, home)["train"]
    cluster.command("scancel", after)
    cluster.wait(after)


def test_a_refused_job_leaves_none_in_the_queue(cluster: Cluster, home: Path, recipe: dict[str, Step]) -> None:
    write_recipe(home, {"train": {"nodes": 2, "partition": "absent"}}, **recipe)
    refused = clpds(cluster, home, "submit", "recipe.yaml", "--profile", "profile.yaml")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "train: sbatch says" in refused.stderr
    assert "Invalid partition" in refused.stderr
    assert not (home / "runs").exists()
    assert cluster.command("squeue", "--noheader") == ""
