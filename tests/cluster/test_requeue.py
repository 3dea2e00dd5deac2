"""A job on a real Slurm that requeues itself away from its node."""

import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import NODES, Cluster

ROOT = Path(__file__).parents[2]
# The pause is a slow slurmctld between the two commands: what Slurm kills at a requeue, it has killed by then.
AWAY = """
import os, time
from clpds.errors import UserError
from launcher import requeue

def slowly(*words, quick=requeue.command):
    done = quick(*words)
    time.sleep(6 if words[1] == "requeue" else 0)
    return done

requeue.command = slowly
try:
    requeue.requeue(os.environ["SLURM_JOB_ID"], [os.environ["SLURMD_NODENAME"]])
except UserError as error:
    raise SystemExit(str(error))
"""


def job(cluster: Cluster, folder: Path, before: str, *arguments: str) -> str:
    """Submit a script whose first run moves away from its node; each run prints where it is."""
    (folder / "away.py").write_text(AWAY)
    (folder / "job.sh").write_text(
        "#!/bin/bash\n"
        'echo "run ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"\n'
        '[ -z "${SLURM_RESTART_COUNT:-}" ] || exit 0\n'
        f"export PYTHONPATH={ROOT}\n{before} {sys.executable} away.py\n"
    )
    return cluster.submit("--requeue", "--open-mode=append", "--ntasks-per-node=1", *arguments, "job.sh", cwd=folder)


@pytest.mark.parametrize("before", ["exec", "trap '' TERM;"])
def test_the_job_comes_back_on_another_node(cluster: Cluster, before: str, tmp_path: Path) -> None:
    number = job(cluster, tmp_path, before, "--nodes=1")
    cluster.wait(number, reached=lambda: cluster.show(number)["Reason"] == "BeginTime")
    cluster.command("scontrol", "update", f"JobId={number}", "StartTime=now")  # not two minutes later
    assert cluster.wait(number) == "COMPLETED", cluster.log(number)
    runs = [line.split()[-1] for line in cluster.log(number).splitlines() if line.startswith("run ")]
    assert sorted(runs) == sorted(NODES)
    assert cluster.show(number)["ExcNodeList"] == runs[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--nodes=2"], f"needs 2 nodes, and without {NODES[0]} partition all has 1"),
        (
            ["--nodes=1", f"--exclude={NODES[1]}"],
            f"needs 1 nodes, and without {NODES[1]}, {NODES[0]} partition all has 0",
        ),
    ],
)
def test_a_job_with_too_few_nodes_left_fails_rather_than_waits(
    cluster: Cluster, arguments: list[str], reason: str, tmp_path: Path
) -> None:
    number = job(cluster, tmp_path, "exec", *arguments)
    assert cluster.wait(number) == "FAILED", cluster.log(number)
    assert f"job {number} {reason}: not requeued" in cluster.log(number)
