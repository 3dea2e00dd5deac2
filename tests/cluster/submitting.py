"""What a user of `clpds submit` does, and what can happen to a job."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clpds.recipe import Step, Train, verb_of
from clpds.run_folder import saved_step
from tests.cluster.cluster import Cluster
from tests.training.stages import curve, read_metrics

PROFILE = {"train": {"nodes": 2, "time": "10"}, "cpu": {}, "setup": "source .venv/bin/activate", "preflight": False}


def clpds(cluster: Cluster, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in the user's folder."""
    command = [sys.executable, "-m", "clpds", *words]
    return subprocess.run(command, cwd=home, env=cluster.environment, capture_output=True, text=True, timeout=120)


def write_recipe(home: Path, profile: dict[str, Any] | None = None, **steps: Step) -> None:
    """``recipe.yaml`` and ``profile.yaml``."""
    plain = {name: {"verb": verb_of(step)} | asdict(step) for name, step in steps.items()}
    (home / "recipe.yaml").write_text(json.dumps({"steps": plain}, default=str))
    (home / "profile.yaml").write_text(json.dumps(PROFILE | (profile or {})))


def submit(cluster: Cluster, home: Path) -> dict[str, str]:
    """Submit the recipe; the ids of its jobs by name."""
    done = clpds(cluster, home, "submit", "recipe.yaml", "--profile", "profile.yaml")
    assert done.returncode == 0, done.stderr
    newest = max(home.rglob("slurm/*/jobs.json"))
    ids: dict[str, str] = json.loads(newest.read_text())
    return ids


def start_training(cluster: Cluster, home: Path, task: Train, **profile: Any) -> tuple[str, Train]:
    """Submit ``task`` into the folder ``run`` and wait for a first checkpoint; the job and the stage."""
    task = replace(task, out=home / "run")
    write_recipe(home, profile, train=task)
    job = submit(cluster, home)["train"]
    if task.saving.every is not None:
        wait_saved(cluster, job, task.out)
    return job, task


def wait_saved(cluster: Cluster, job: str, run: Path, beyond: int = 0) -> int:
    """Until a checkpoint after step ``beyond`` is there; its step."""
    state = cluster.wait(job, reached=lambda: saved_step(run) > beyond)
    assert state == "RUNNING", cluster.log(job)
    return saved_step(run)


def come_back(cluster: Cluster, job: str, restarts: int = 1) -> None:
    """Wait until the job is in the queue again, and let it start now instead of in two minutes."""
    cluster.wait(job, reached=lambda: cluster.show(job)["Restarts"] == str(restarts))
    cluster.hurry(job)


def finish(cluster: Cluster, job: str, task: Train, undisturbed: Train) -> None:
    """The job ends well, with no step lost or done otherwise."""
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert curve(read_metrics(task.out)) == curve(read_metrics(undisturbed.out)), cluster.log(job)
