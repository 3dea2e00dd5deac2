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


# As `clpds supervise` ends: the last of the array's tasks, whose number is the array's, goes back into the queue.
BACK = """
import os, sys, time
from pathlib import Path
from clpds.cli import Supervise
from clpds.errors import UserError
from launcher.slurm import own_job
from launcher.supervise import _requeue

if os.environ.get("SLURM_ARRAY_TASK_ID", "2") == "2" and "SLURM_RESTART_COUNT" not in os.environ:
    try:
        _requeue(Path("run"), Supervise(recipe=Path("r.yaml")), own_job())
    except UserError as error:
        sys.exit(str(error))
else:
    time.sleep(8 * (os.environ["SLURM_ARRAY_TASK_ID"] == "1"))
"""


def back(cluster: Cluster, folder: Path, *arguments: str) -> str:
    """Submit a script that goes back into the queue once."""
    (folder / "back.py").write_text(BACK)
    (folder / "job.sh").write_text(f"#!/bin/bash\nexport PYTHONPATH={ROOT}\nexec {sys.executable} back.py\n")
    return cluster.submit("--ntasks=1", "--open-mode=append", *arguments, "job.sh", cwd=folder)


def test_a_task_of_an_array_goes_back_alone(cluster: Cluster, tmp_path: Path) -> None:
    array = back(cluster, tmp_path, "--array=1-2", "--requeue", "--output=log-%a")
    first, last = f"{array}_1", f"{array}_2"
    cluster.wait(last, reached=lambda: cluster.show(last)["Reason"] == "BeginTime")
    assert "back into the queue from step 0" in (tmp_path / "log-2").read_text()
    assert cluster.wait(first) == "COMPLETED", (tmp_path / "log-1").read_text()
    assert (cluster.show(first)["Restarts"], cluster.show(last)["Restarts"]) == ("0", "1")
    assert "CANCELLED" not in (tmp_path / "log-1").read_text()
    cluster.command("scancel", array)


def test_what_slurm_refuses_is_not_said_to_be_done(cluster: Cluster, tmp_path: Path) -> None:
    number = back(cluster, tmp_path, "--no-requeue")
    assert cluster.wait(number) == "FAILED"
    assert "scontrol says: " in cluster.log(number)
    assert "back into the queue" not in cluster.log(number)


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
