"""``python -m tests.cluster.recipes RECIPE [OVERRIDE...]``: a whole recipe on the tests' Slurm, each stage disturbed.

The recipe is submitted as a user does it, with the profile local.yaml, from a folder with .venv and the recipe's
inputs. When a training stage has written its first checkpoint, one of its ranks is killed: the job has to come back by
itself and go on. Leaves with 1 where a job failed or a stage was not hit. pytest does not collect this.
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tests.conftest  # noqa: F401 (the environment of tests: one thread a rank, nothing from the network)
from clpds.recipe import Eval, Train, load_recipe
from clpds.run_folder import read_state, saved_step
from tests.cluster.cluster import LIVE, Cluster, running_cluster, why_not
from tests.cluster.submitting import come_back
from tests.training.stages import read_metrics

QUEUE = "arrayjobid:20,state:20,restartcnt:10"
console = Console(highlight=False, markup=False, soft_wrap=True, width=120)


@dataclass
class Job:
    """What became of one."""

    number: str
    state: str = "PENDING"
    restarts: int = 0
    started: float | None = None
    ended: float | None = None
    killed: list[int] = field(default_factory=list)
    """Steps that were saved when a rank was killed."""


def main() -> None:
    """Start the cluster, submit, disturb, wait, tell."""
    if reason := why_not():
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("ended by a signal"))
    recipe = load_recipe(Path(sys.argv[1]), sys.argv[2:])
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clpds-cluster-") as folder, running_cluster(Path(folder)) as cluster:
        jobs = submit(cluster, sys.argv[1:])
        stages = {name: step for name, step in recipe.steps.items() if isinstance(step, Train) and name in jobs}
        with ThreadPoolExecutor(len(stages) or 1) as pool:
            hits = [pool.submit(disturb, cluster, name, jobs[name], stage) for name, stage in stages.items()]
            try:
                wait(cluster, jobs)
            finally:
                for job in jobs.values():  # which ends the threads too
                    job.ended = job.ended or time.monotonic()
        for problem in filter(None, (hit.exception() for hit in hits)):
            console.print(problem)
    failed = [name for name, job in jobs.items() if job.state != "COMPLETED"]
    show(jobs, stages, time.monotonic() - begin)
    for name, step in recipe.steps.items():
        if isinstance(step, Eval) and step.out is not None and step.out.exists():
            scores = json.loads(step.out.read_text())
            console.print(
                f"{name}:", *(f"{key} {score:.4g}" for key, score in scores.items() if isinstance(score, float))
            )
    missed = [name for name in stages if not (jobs[name].killed and jobs[name].restarts)]
    if failed or missed:
        sys.exit(f"failed: {', '.join(failed) or 'none'}; not hit: {', '.join(missed) or 'none'}")


def submit(cluster: Cluster, words: list[str]) -> dict[str, Job]:
    """`clpds submit`; the jobs by name."""
    command = [sys.executable, "-m", "clpds", "submit", *words, "--profile", "local.yaml"]
    done = subprocess.run(command, env=cluster.environment, stdout=subprocess.PIPE, text=True, check=False)
    console.print(done.stdout)
    scripts = re.search(r"^Scripts and logs: (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or scripts is None:
        sys.exit("nothing was submitted")
    numbers = json.loads((Path(scripts[1]) / "jobs.json").read_text())
    return {name: Job(number) for name, number in numbers.items()}


def disturb(cluster: Cluster, name: str, job: Job, stage: Train) -> None:
    """Kill the second rank once a checkpoint is there, and let the job start again at once, not in two minutes."""
    ranks: list[int] = []
    while len(ranks) < 2:
        if job.ended:
            return
        time.sleep(0.2)
        state = read_state(stage.out) if stage.out.is_dir() else None
        ranks = cluster.ranks(job.number) if state and state.state == "training" else []
    while (saved := saved_step(stage.out)) == 0:
        if job.ended:
            return
        time.sleep(0.02)
    cluster.signal(ranks[1:], signal.SIGKILL)
    job.killed.append(saved)
    console.print(f"{time.strftime('%X')} {name}: rank 1 killed, step {saved} of {stage.steps} is saved")
    come_back(cluster, job.number)
    console.print(f"{time.strftime('%X')} {name}: back in the queue and started again")


def wait(cluster: Cluster, jobs: dict[str, Job]) -> None:
    """Until all have ended; those that wait for one that fails end with it."""
    by_number = {job.number: (name, job) for name, job in jobs.items()}
    while any(job.ended is None for job in jobs.values()):
        time.sleep(1)
        states: dict[str, list[tuple[str, int]]] = {}
        try:
            queue = cluster.command("squeue", "--states=all", "--noheader", "-O", QUEUE)
        except RuntimeError as error:  # a machine so busy that slurmctld does not answer in time
            console.print(error)
            continue
        for line in queue.splitlines():
            number, state, restarts = line.split()
            states.setdefault(number, []).append((state, int(restarts)))
        for number, tasks in states.items():
            name, job = by_number[number]
            live = [state for state, _ in tasks if state in LIVE]
            bad = [state for state, _ in tasks if state not in LIVE and state != "COMPLETED"]
            job.restarts = max(restarts for _, restarts in tasks)
            if job.ended is None:
                job.state = (bad or live or ["COMPLETED"])[0]
            if "RUNNING" in live and job.started is None:
                job.started = time.monotonic()
            if not live and job.ended is None:
                job.ended = time.monotonic()
                console.print(f"{time.strftime('%X')} {name}: {job.state}")
                if bad:
                    console.print(cluster.log(number))


def show(jobs: dict[str, Job], stages: dict[str, Train], seconds: float) -> None:
    """A line for each job."""
    table = Table("job", "step", "state", "killed with", "requeued", "ended at", "metrics", "seconds", box=None)
    for name, job in jobs.items():
        took = f"{job.ended - job.started:.0f}" if job.ended and job.started else ""
        end = metrics = ""
        if (stage := stages.get(name)) and job.state == "COMPLETED":
            end = f"step {saved_step(stage.out)} of {stage.steps}"
            wanted = list(range(stage.log_every, stage.steps + 1, stage.log_every))
            metrics = "complete" if [line["step"] for line in read_metrics(stage.out)] == wanted else "holes"
        killed = ", ".join(f"step {step} saved" for step in job.killed)
        table.add_row(job.number, name, job.state, killed, str(job.restarts), end, metrics, took)
    console.print(table)
    console.print(f"in all {seconds:.0f} s")


if __name__ == "__main__":
    main()
