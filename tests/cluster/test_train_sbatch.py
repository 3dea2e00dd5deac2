"""The shipped slurm/train.sbatch on a real Slurm: two nodes, one rank each, ZeRO-3 over gloo."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from clpds.recipe import Corpus, Train
from tests.cluster.cluster import Cluster
from tests.ranks import run_ranks
from tests.training.stages import curve, read_metrics, run_stage, stage, write_inputs

SCRIPT = Path(__file__).parents[2] / "slurm" / "train.sbatch"
CPU_SITE = ("--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")  # instead of the lines marked SITE


@pytest.fixture(scope="module")
def task(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """A stage done by two ranks without Slurm and without a break; long enough to be stopped in the middle."""
    folder = tmp_path_factory.mktemp("local")
    task = stage(write_inputs(folder, shape="gpt2"), folder / "run", steps=60)  # GPT-2 has dropout
    run_ranks(2, run_stage, task)
    return task


def submit(cluster: Cluster, task: Train, folder: Path) -> str:
    """What a user does: a folder with the recipe and the environment, and sbatch."""
    (folder / "recipe.yaml").write_text(json.dumps({"steps": {"train": {"verb": "train"} | asdict(task)}}, default=str))
    if not (folder / ".venv").exists():
        (folder / ".venv").symlink_to(sys.prefix)
    return cluster.submit(*CPU_SITE, str(SCRIPT), "recipe.yaml", cwd=folder)


def test_the_curve_is_that_of_ranks_without_slurm(cluster: Cluster, task: Train, tmp_path: Path) -> None:
    job = submit(cluster, replace(task, out=tmp_path / "run"), tmp_path)
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert cluster.show(job)["NumNodes"] == "2"
    assert "finished at step 60 of 60" in cluster.log(job)
    assert curve(read_metrics(tmp_path / "run")) == curve(read_metrics(task.out))


def test_bad_input_fails_with_one_line(cluster: Cluster, task: Train, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    job = submit(cluster, replace(task, data={"german": Corpus(path=absent)}, out=tmp_path / "run"), tmp_path)
    assert cluster.wait(job, timeout=60) == "FAILED", cluster.log(job)
    errors = [line for line in cluster.log(job).splitlines() if not line.startswith(("srun:", "slurmstepd"))]
    assert len(errors) == 1, cluster.log(job)
    assert errors[0].startswith("clpds train: error:")
    assert str(absent) in errors[0]


def test_usr1_saves_and_the_same_command_goes_on(cluster: Cluster, task: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"
    stopped = submit(cluster, replace(task, out=run), tmp_path)
    cluster.wait(stopped, reached=lambda: metrics.exists() and bool(metrics.read_bytes()))
    cluster.command("scancel", "--signal=USR1", stopped)  # the ranks, not the batch script
    assert cluster.wait(stopped) == "COMPLETED", cluster.log(stopped)
    assert cluster.show(stopped)["ExitCode"] == "0:0"
    steps = len(read_metrics(run))
    assert 0 < steps < task.steps
    assert f"stopped at step {steps} of {task.steps}" in cluster.log(stopped)

    again = submit(cluster, replace(task, out=run), tmp_path)
    assert cluster.wait(again) == "COMPLETED", cluster.log(again)
    assert f"resuming from step {steps}" in cluster.log(again)
    assert curve(read_metrics(run)) == curve(read_metrics(task.out))
