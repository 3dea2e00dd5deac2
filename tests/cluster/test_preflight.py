"""``srun clpds preflight`` on a real Slurm of two nodes."""

import sys
from pathlib import Path

from tests.cluster.cluster import NODES, Cluster

ROOT = Path(__file__).parents[2]
# The same check with less patience than 40 s for a rank that never comes.
QUICK = (
    "from clpds.preflight.entry import *; import os; export_rank(); "
    "os._exit(check(Path('run'), Waiting(), reports=12, end=30))"
)


def submit(cluster: Cluster, folder: Path, command: str) -> str:
    """A batch script that goes on after the check, as a supervisor does, and prints its status."""
    lines = [f"export PYTHONPATH={ROOT} DS_ACCELERATOR=cpu", f"srun --kill-on-bad-exit=0 {command}", "echo status $?"]
    (folder / "job.sh").write_text("\n".join(["#!/bin/bash", *lines, ""]))
    return cluster.submit("--nodes=2", "--ntasks-per-node=1", "job.sh", cwd=folder)


def test_two_well_nodes(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, f"{sys.executable} -m clpds preflight --folder run")
    cluster.wait(job)
    said = cluster.log(job).splitlines()
    assert [line.split()[:2] for line in said[1:3]] == [[NODES[0], "0"], [NODES[1], "1"]], cluster.log(job)
    assert said[3].startswith("all-reduce: the sum over 2 ranks is right")
    assert said[4:] == ["status 0"]
    assert not list((tmp_path / "run").iterdir())


def test_a_node_whose_rank_never_comes(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "rank.sh").write_text(f'[ "$SLURM_PROCID" = 1 ] || exec {sys.executable} -c "{QUICK}"\n')
    job = submit(cluster, tmp_path, "bash rank.sh")
    cluster.wait(job)
    assert f"{NODES[1]} is silent: rank 1 of 2 did not report" in cluster.log(job)
    assert "status 1" in cluster.log(job)
    assert (tmp_path / "run" / "bad_nodes").read_text() == f"{NODES[1]}\n"
