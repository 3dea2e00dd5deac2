"""Real ranks look at themselves; what would make a machine sick is done to one of them, and said so."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clpds.errors import UserError
from clpds.preflight.entry import Waiting, check
from clpds.preflight.health import Report
from clpds.preflight.verdict import Clock, Problem, judge, numbers
from launcher.rendezvous import free_port
from tests.ranks import run_ranks

Sick = dict[
    int, Callable[[], Any] | None
]  # rank -> what is done to it first (may return its folder); None: it is absent


def nothing() -> None:
    """A healthy rank."""


def checked(folder: Path, sick: Sick, slurm: str | None, end: float) -> tuple[int, str]:
    """A rank on a node of its own: its status and what it prints."""
    from clpds.preflight import health

    health.SEEN_WITHIN = 1.0
    rank = int(os.environ["RANK"])
    os.environ |= {"SLURMD_NODENAME": f"n{rank}", "LOCAL_RANK": "0"} | ({"SLURM_STEP_NODELIST": slurm} if slurm else {})
    infect = sick.get(rank, nothing)
    if infect is None:
        return 1, ""
    folder = infect() or folder
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            status = check(folder, Waiting(), reports=end - 10, end=end)
        except UserError as error:
            status = 2
            said.write(f"UserError: {error}")
    return status, said.getvalue()


def preflight(
    folder: Path, sick: Sick | None = None, *, ranks: int = 2, slurm: str | None = None, end: float = 40
) -> tuple[list[int], str]:
    """The ranks' statuses and what rank 0 prints; the others print nothing."""
    results = run_ranks(ranks, checked, folder, sick or {}, slurm, end)
    assert all(not said for _, said in results[1:])
    return [status for status, _ in results], results[0][1]


def bad_nodes(folder: Path) -> list[str]:
    path = folder / "bad_nodes"
    return path.read_text().splitlines() if path.exists() else []


def test_all_is_well(tmp_path: Path) -> None:
    (tmp_path / "bad_nodes").write_text("n7\n")
    statuses, said = preflight(tmp_path, ranks=3)
    assert statuses == [0, 0, 0]
    assert [line.split()[:2] for line in said.splitlines()[1:4]] == [["n0", "0"], ["n1", "1"], ["n2", "2"]]
    assert "the sum over 3 ranks is right" in said
    assert not list(tmp_path.iterdir())  # neither the old list nor files of its own


def elsewhere(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    """Rank 1 is given another folder, as if the same path were on a disk of its own."""
    statuses, said = preflight(tmp_path / "run", {1: partial(elsewhere, tmp_path / "other")})
    assert statuses == [1, 1]
    assert "n1 does not see what rank 0 wrote" in said
    assert bad_nodes(tmp_path / "run") == ["n1"]


def test_a_folder_that_one_node_cannot_write(tmp_path: Path) -> None:
    """Rank 1 is given a folder where nobody can make a file, as if the disk were not mounted there."""
    statuses, said = preflight(tmp_path / "run", {1: partial(Path, "/proc/1")})
    assert statuses == [1, 1]
    assert "n1 cannot write in /proc/1" in said
    assert bad_nodes(tmp_path / "run") == ["n1"]


def test_a_folder_that_cannot_be_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    statuses, said = preflight(tmp_path / "file" / "run")
    assert statuses == [2, 2]
    assert f"UserError: {tmp_path / 'file' / 'run'} cannot be written" in said


@pytest.mark.parametrize(
    ("slurm", "said_of_it", "named"),
    [
        ("n[0-1]", "n1 is silent: rank 1 of 2 did not report", ["n1"]),
        (None, "clpds preflight: rank 1 of 2 did not report", []),
    ],
)
def test_a_rank_that_never_comes(slurm: str | None, said_of_it: str, named: list[str], tmp_path: Path) -> None:
    statuses, said = preflight(tmp_path, {1: None}, slurm=slurm, end=14)
    assert statuses[0] == 1
    assert said_of_it in said
    assert bad_nodes(tmp_path) == named


def other_version(packages: Path) -> None:
    information = packages / "deepspeed-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.1\n")
    sys.path.insert(0, str(packages))


def test_a_node_with_another_version(tmp_path: Path) -> None:
    """Rank 0 is the odd one: what most have is right."""
    statuses, said = preflight(tmp_path / "run", {0: partial(other_version, tmp_path)}, ranks=3)
    assert statuses == [1, 1, 1]
    assert "n0 has deepspeed 0.1, the others " in said
    assert bad_nodes(tmp_path / "run") == ["n0"]


def wrong_clock() -> None:
    from clpds.preflight import meeting

    clock = SimpleNamespace(time=lambda: time.time() + 30, monotonic=time.monotonic)
    meeting.time = clock  # type: ignore[assignment]


def test_a_node_with_a_wrong_clock(tmp_path: Path) -> None:
    """Rank 1 reads a clock that is half a minute ahead; the machine has but one real clock."""
    statuses, said = preflight(tmp_path, {1: wrong_clock}, ranks=3)
    assert statuses == [1, 1, 1]
    assert "n1 has a clock +30.0 s off the others'" in said
    assert bad_nodes(tmp_path) == ["n1"]


def wrong_summand() -> None:
    from clpds.preflight import reduction

    reduction.PATTERN = 5


def test_a_wrong_sum_is_seen(tmp_path: Path) -> None:
    """Rank 1 adds other numbers, so the sum is wrong everywhere and no node can be told from the other."""
    statuses, said = preflight(tmp_path, {1: wrong_summand})
    assert statuses == [1, 1]
    assert "got a wrong sum in" in said


def hang_in_the_sum() -> None:
    from clpds.preflight import meeting

    meeting.all_reduce = lambda *arguments: time.sleep(8)  # type: ignore[assignment,return-value]


def test_an_all_reduce_that_does_not_end_names_no_node(tmp_path: Path) -> None:
    """Rank 1 does not join; the others wait for it, and from outside all look alike."""
    statuses, said = preflight(tmp_path, {0: hang_in_the_sum, 1: hang_in_the_sum}, end=12)
    assert statuses[0] == 1
    assert "every node does not end the all-reduce" in said
    assert bad_nodes(tmp_path) == []


def test_a_rank_that_hangs_ends_itself_and_says_where(tmp_path: Path) -> None:
    """Rank 1 alone: there is no rank 0 to answer it. The minute is shortened to a second."""
    script = (
        "from pathlib import Path\nfrom clpds.cli import Preflight\nfrom clpds.preflight import entry\n"
        f"entry.END = 1.0\nentry.preflight(Preflight(folder=Path({str(tmp_path)!r})))\n"
    )
    five = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **five, "MASTER_PORT": str(free_port())}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "rank 1: still waits for" in done.stderr


def reports(*nodes: str, **facts: Any) -> list[Report]:
    return [Report(rank, node, **facts) for rank, node in enumerate(nodes)]


def judged(found: list[Report], world_size: int, nodes: list[str]) -> list[Problem]:
    return judge(found, {report.node: Clock(0.0, 0.0) for report in found}, world_size, nodes)


def test_a_node_that_lacks_some_of_its_ranks_is_named() -> None:
    assert judged(reports("a", "a", "b"), 4, ["a", "b"]) == [Problem("b", "is silent: rank 3 of 4 did not report")]


def test_ranks_that_share_a_gpu_are_named() -> None:
    """Made reports: no test machine has a GPU to share."""
    found = reports("a", "a", "b", device="H", device_id="7")  # the same number on another node is another GPU
    assert judged(found, 3, ["a", "b"]) == [Problem("a", "has ranks 0-1 on one GPU")]


def test_a_node_without_a_gpu_among_nodes_with_one_is_named() -> None:
    """Made reports: no test machine has a GPU."""
    found = reports("a", "b", "c", device="H")
    found[2].device = "cpu"
    assert judged(found, 3, ["a", "b", "c"]) == [Problem("c", "has device none, the others GPU")]


def test_what_every_node_has_is_no_nodes_fault() -> None:
    found = reports("a", "b", problems=["cannot write in /x"])
    assert judged(found, 2, ["a", "b"]) == [Problem(None, "every node cannot write in /x")]
    assert judged(found[:1], 1, ["a"]) == [Problem("a", "cannot write in /x")]


def test_ranks_are_written_short() -> None:
    assert numbers([7, 0, 1, 2, 3, 9]) == "0-3,7,9"
