"""A kill at every instant of a write: the old output or the new one, whole, after the next command at the latest."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clpds.output import new_folder, write_file
from tests.untouched.tree import make_ours, neighbours, tree, write

TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "os.truncate")
Work = Callable[[Path], None]


def replace_folder(out: Path) -> None:
    """Write the folder ``out`` in place of the one that is there."""
    with new_folder(out, overwrite=True) as folder:
        make_ours(folder)
        write(folder / "config.json", "new")


def replace_file(out: Path) -> None:
    write_file(out, b"new", overwrite=True)


def killed_at(instant: int, work: Work, out: Path) -> bool:
    """Do ``work`` in a child that the kernel kills before it touches the disk for this time; whether it came so far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in TOUCHES:
                if seen == instant:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(count)
        try:
            work(out)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("work", [replace_folder, replace_file], ids=["folder", "file"])
@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
def test_a_kill_at_any_instant_leaves_the_old_or_the_new(work: Work, there: bool, tmp_path: Path) -> None:
    instant, seen = 0, set()
    while True:
        place = tmp_path / f"{instant:03d}"
        out = place / "out"
        if there:
            make_ours(out) if work is replace_folder else write(out, "old")
        else:
            place.mkdir()
        neighbours(out)
        before = tree(place)
        if not killed_at(instant, work, out):
            break
        theirs = {name: state for name, state in before.items() if name.partition("/")[0] != "out"}
        after = tree(place)
        assert {name: after.get(name) for name in theirs} == theirs
        old = {name: state for name, state in before.items() if name.partition("/")[0] == "out"}
        now = {name: state for name, state in after.items() if name.partition("/")[0] == "out"}
        assert now in ({}, old) or ends_new(now), "half an output"
        seen.add("old" if now == old else "new" if now else "aside")
        work(out)
        done = tree(place)
        assert {name: state for name, state in done.items() if name.partition("/")[0] != "out"} == theirs
        assert ends_new({name: state for name, state in done.items() if name.partition("/")[0] == "out"})
        instant += 1
    assert instant > 10
    assert {"old", "new"} <= seen or not there


def ends_new(entries: dict[str, Any]) -> bool:
    return (entries.get("out/config.json") or entries.get("out", ("", b"")))[1] == b"new"
