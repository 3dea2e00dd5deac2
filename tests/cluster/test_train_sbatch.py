"""The shipped slurm/train.sbatch on a real Slurm: two nodes, one rank each, ZeRO-3 over gloo."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from clpds.recipe import Corpus, Train
from clpds.run_folder import ask_to_stop, read_state
from tests.cluster.cluster import Cluster
from tests.training.stages import curve, read_metrics

SCRIPT = Path(__file__).parents[2] / "slurm" / "train.sbatch"
CPU_SITE = ("--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")  # instead of the lines marked SITE


def submit(cluster: Cluster, task: Train, home: Path) -> str:
    """What a user does: a folder with the recipe and the environment, and sbatch."""
    (home / "recipe.yaml").write_text(json.dumps({"steps": {"train": {"verb": "train"} | asdict(task)}}, default=str))
    return cluster.submit(*CPU_SITE, str(SCRIPT), "recipe.yaml", cwd=home)


def test_the_curve_is_that_of_ranks_without_slurm(cluster: Cluster, task: Train, home: Path) -> None:
    job = submit(cluster, replace(task, out=home / "run"), home)
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert cluster.show(job)["NumNodes"] == "2"
    assert f"finished at step {task.steps} of {task.steps}" in cluster.log(job)
    assert curve(read_metrics(home / "run")) == curve(read_metrics(task.out))


def test_a_time_limit_that_leaves_none_to_train_is_refused(cluster: Cluster, home: Path) -> None:
    train = {"verb": "train", "model": "m", "data": {"de": {"path": "d"}}, "out": str(home / "run"), "steps": 4}
    (home / "recipe.yaml").write_text(json.dumps({"steps": {"train": train | {"micro_batch": 2, "global_batch": 4}}}))
    job = cluster.submit(*CPU_SITE, "--time=6", str(SCRIPT), "recipe.yaml", cwd=home)
    assert cluster.wait(job) == "FAILED", cluster.log(job)
    said = f"job {job}: the time limit 6:00 is 360 s, and Slurm warns signal_lead = 300 s before it"
    assert f"clpds supervise: error: {said}" in cluster.log(job)
    state = read_state(home / "run")
    assert state is not None
    assert (state.state, state.reason.startswith(said)) == ("failed", True)


def test_bad_input_fails_with_one_line(cluster: Cluster, task: Train, home: Path) -> None:
    absent = home / "absent"
    job = submit(cluster, replace(task, data={"german": Corpus(path=absent)}, out=home / "run"), home)
    assert cluster.wait(job) == "FAILED", cluster.log(job)
    ours = [line for line in cluster.log(job).splitlines() if not line.startswith(("srun:", "slurmstepd"))]
    errors = [line for line in ours if "error" in line]
    assert len(errors) == 1, cluster.log(job)
    assert errors[0].startswith("clpds train: error:")
    assert str(absent) in errors[0]
    assert cluster.show(job)["Restarts"] == "0"


def test_a_stop_file_ends_the_job_and_the_same_command_goes_on(cluster: Cluster, task: Train, home: Path) -> None:
    run = home / "run"
    stopped = submit(cluster, replace(task, out=run), home)
    cluster.wait(stopped, reached=lambda: bool(logged_steps(run)))
    ask_to_stop(run, requeue=False)
    assert cluster.wait(stopped) == "FAILED", cluster.log(stopped)  # what waits for it must not start
    assert cluster.show(stopped)["Restarts"] == "0"
    steps = logged_steps(run)
    assert 0 < steps < task.steps
    assert f"stopped at step {steps} of {task.steps}" in cluster.log(stopped)

    again = submit(cluster, replace(task, out=run), home)
    assert cluster.wait(again) == "COMPLETED", cluster.log(again)
    assert f"resuming from step {steps}" in cluster.log(again)
    assert curve(read_metrics(run)) == curve(read_metrics(task.out))


def logged_steps(run: Path) -> int:
    return len(read_metrics(run)) if (run / "metrics.jsonl").exists() else 0
