"""Signals, time limits, dead ranks and dead nodes on a real Slurm: the job comes back and nothing is lost."""

import signal
import time
from dataclasses import replace
from pathlib import Path

from clpds.recipe import Saving, Train
from clpds.run_folder import STOP, read_state, saved_step
from tests.cluster.cluster import LIVE, NODES, Cluster
from tests.cluster.submitting import come_back, finish, start_training, submit, write_recipe
from tests.training.stages import read_metrics


def test_a_time_limit_sends_the_job_back_into_the_queue(cluster: Cluster, task: Train, home: Path) -> None:
    job, disturbed = start_training(cluster, home, task, signal_lead=50)
    ranks = cluster.ranks(job)
    cluster.signal(ranks, signal.SIGSTOP)  # one long step: Slurm looks at time limits twice a minute only
    cluster.command("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    cluster.wait(job, reached=lambda: (disturbed.out / STOP).exists())
    cluster.signal(ranks, signal.SIGCONT)
    cluster.wait(job, reached=lambda: cluster.show(job)["Restarts"] == "1")
    cluster.command("scontrol", "update", f"JobId={job}", "TimeLimit=10")  # else it would be refused
    come_back(cluster, job)
    assert saved_step(disturbed.out) < task.steps
    finish(cluster, job, disturbed, task)
    assert "back into the queue from step" in cluster.log(job)
    assert "DUE TO TIME LIMIT" not in cluster.log(job)


def test_a_signal_to_the_ranks_sends_the_job_back_into_the_queue(cluster: Cluster, task: Train, home: Path) -> None:
    job, disturbed = start_training(cluster, home, task)
    cluster.command("scancel", "--signal=TERM", job)
    come_back(cluster, job)
    assert saved_step(disturbed.out) == len(read_metrics(disturbed.out))  # it saved where it stood
    finish(cluster, job, disturbed, task)


def test_a_rank_that_is_killed_takes_the_job_back_into_the_queue(cluster: Cluster, task: Train, home: Path) -> None:
    job, disturbed = start_training(cluster, home, task)
    cluster.signal(cluster.ranks(job)[1:], signal.SIGKILL)
    come_back(cluster, job)
    finish(cluster, job, disturbed, task)


def test_ranks_that_die_twice_without_progress_stay_dead(cluster: Cluster, task: Train, home: Path) -> None:
    job, disturbed = start_training(cluster, home, replace(task, saving=Saving()))
    for restarts in (0, 1):
        if restarts:
            come_back(cluster, job)
        cluster.wait(job, reached=lambda: len(cluster.ranks(job)) == 2)
        cluster.signal(cluster.ranks(job)[:1], signal.SIGKILL)
    assert cluster.wait(job) == "FAILED", cluster.log(job)
    assert "not requeued, for they died with step 0 saved before" in cluster.log(job)
    state = read_state(disturbed.out)
    assert state is not None
    assert state.state == "failed"


def test_a_job_comes_back_from_a_dead_node(cluster: Cluster, task: Train, home: Path) -> None:
    job, disturbed = start_training(cluster, home, task)
    saved = saved_step(disturbed.out)
    cluster.fail(NODES[1])
    cluster.wait(job, reached=lambda: cluster.show(job)["Restarts"] == "1")
    time.sleep(
        10
    )  # started at once the job would get one node: what Slurm hears late of the first start counts as this one's
    come_back(cluster, job)
    assert saved_step(disturbed.out) >= saved
    cluster.start_node(NODES[1])
    # That the first start's step shall end waits in Slurm for the dead node, and is told to this start's, which bears
    # the same number, if it has not finished in half a minute. Then it saves and comes back once more.
    if cluster.wait(job, reached=lambda: cluster.show(job)["Restarts"] == "2") in LIVE:
        cluster.hurry(job)
    finish(cluster, job, disturbed, task)


def test_a_job_goes_back_into_the_queue_so_often_and_not_more(cluster: Cluster, task: Train, home: Path) -> None:
    job, disturbed = start_training(cluster, home, task, requeue_limit=0)
    cluster.command("scancel", "--signal=USR1", job)
    assert cluster.wait(job) == "FAILED", cluster.log(job)
    assert "not requeued, for the job has been 0 times" in cluster.log(job)
    assert saved_step(disturbed.out) == len(read_metrics(disturbed.out))


def test_a_node_that_fails_the_preflight_is_named_and_left_out(cluster: Cluster, task: Train, home: Path) -> None:
    other = home / "other" / "transformers-0.0.dist-info"  # what is installed on the second node, as it seems there
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.0\n")
    there = home / "there.sh"
    there.write_text(
        f'#!/bin/sh\n[ "$SLURMD_NODENAME" != {NODES[1]} ] || export PYTHONPATH={other.parent}:$PYTHONPATH\nexec "$@"\n'
    )
    there.chmod(0o755)
    write_recipe(
        home,
        {"container": str(there), "preflight": True, "exclude_bad_nodes": True},
        train=replace(task, out=home / "run"),
    )
    job = submit(cluster, home)["train"]
    assert cluster.wait(job) == "FAILED", cluster.log(job)
    assert f"{NODES[1]} has transformers 0.0, the others" in cluster.log(job)
    # There is no third node to go to.
    assert f"job {job} needs 2 nodes, and without {NODES[1]} partition all has 1: not requeued" in cluster.log(job)
    state = read_state(home / "run")
    assert state is not None
    assert state.reason == f"preflight: {NODES[1]}"
