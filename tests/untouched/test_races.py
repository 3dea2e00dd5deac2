"""Two commands at one output, and inputs that change while they are read: with real processes and real files."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clpds import output, provenance
from clpds.folders.claim import InUseError, claimed
from tests.untouched.commands import FILES, FOLDERS
from tests.untouched.conftest import Clpds
from tests.untouched.tree import tree

HOLD = """
import sys
from pathlib import Path
from clpds.folders.claim import claimed
with claimed(Path(sys.argv[1]), task_of=sys.argv[2] or None):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holding(out: Path, task_of: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that works on ``out``."""
    command = [sys.executable, "-c", HOLD, str(out), task_of]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("verb", {**FOLDERS, **FILES})
def test_the_second_command_names_the_first(
    verb: str, folder: Path, clpds: Clpds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clpds.folders.claim.PATIENCE", 0.0)
    with holding(folder / "out.png") as first:
        before = tree(folder)
        status, err = clpds((FOLDERS | FILES)[verb].words.format(out="out.png"))
        assert status == 2
        assert f"out.png is in use by process {first.pid} on {socket.gethostname()} (" in err
        assert tree(folder) == before
    with claimed(folder / "out.png"):  # it was killed, and the claim ended with it
        pass
    assert not list(folder.glob("out.png*"))


def test_tasks_of_one_work_share_the_claim_and_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clpds.folders.claim.PATIENCE", 0.0)
    out = tmp_path / "out"
    with holding(out, "work"):
        with claimed(out, task_of="work"):
            pass
        for other in (None, "another"):
            with pytest.raises(InUseError), claimed(out, task_of=other):
                pass
    with claimed(out):
        assert [path.name for path in tmp_path.iterdir()] == ["out.clpds-lock"]
    assert not list(tmp_path.iterdir())


def test_a_file_that_only_looks_like_a_lock_is_not_touched(tmp_path: Path, folder: Path, clpds: Clpds) -> None:
    for name in ("out.clpds-lock", "out.clpds-work"):
        lock = folder / name
        lock.write_text("my locks") if name.endswith("lock") else (lock / "mine").mkdir(parents=True)
        before = tree(folder)
        status, err = clpds(FOLDERS["data"].words.format(out="out"))
        assert (status, err.count("\n")) == (2, 1)
        assert name in err
        assert tree(folder) == before
        lock.unlink() if lock.is_file() else shutil.rmtree(lock)


@pytest.mark.parametrize("verb", ["data", "convert"])
def test_of_two_commands_at_once_one_output_is_whole(verb: str, folder: Path, clpds: Clpds) -> None:
    """The other is refused: a claim, or an output that is there by then."""
    one, other = {"data": ("de.txt", "en.txt"), "convert": ("sharded", "english")}[verb]
    words = FOLDERS[verb].words
    commands = [words.format(out="both"), words.replace(one, other).format(out="both")]
    alone = []
    for command in commands:
        assert clpds(command)[0] == 0
        alone.append(tree(folder / "both"))
        shutil.rmtree(folder / "both")
    start = [sys.executable, "-m", "clpds"]
    both = [
        subprocess.Popen([*start, *shlex.split(command)], stderr=subprocess.PIPE, text=True) for command in commands
    ]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    winner = [process.returncode for process in both].index(0)
    assert tree(folder / "both") == alone[winner]
    assert "both is in use by process" in said[1 - winner] or "both exists" in said[1 - winner]
    assert not list(folder.glob("both.*"))


CHANGES = [*(("replaced", verb) for verb in {**FOLDERS, **FILES}), ("written", "convert"), ("removed", "tokenizer")]


@pytest.mark.parametrize(("how", "verb"), CHANGES)
def test_an_input_that_changes_while_it_is_read_ends_the_command(
    how: str, verb: str, folder: Path, clpds: Clpds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as the output is begun; a file of the same size and time in its place counts too."""
    command = (FOLDERS | FILES)[verb]
    path = folder / command.inputs[0]
    file = path if path.is_file() else path / "config.json"
    original = output._beside

    @contextmanager
    def changing(out: Path) -> Iterator[Path]:
        with original(out) as stage:
            change(file, how)
            yield stage

    monkeypatch.setattr(output, "_beside", changing)
    before = tree(folder)
    status, err = clpds(command.words.format(out="out.png"))
    assert status == 2, err
    happened = "was removed" if how == "removed" else "has changed"
    assert f"{file.relative_to(folder)} {happened} while it was read" in err
    left = {name for name in tree(folder).keys() - before.keys() if not name.startswith("out.png.clpds-work")}
    assert not left  # the chunks of `data` are there for the next command, which looks whose they are


def change(file: Path, how: str) -> None:
    """Write into the file, put another of the same size and time in its place, or remove it."""
    state, text = file.stat(), file.read_bytes()
    if how != "written":
        file.rename(file.with_name("away"))
    if how != "removed":
        file.write_bytes(text)
    if how == "replaced":
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    file.with_name("away").unlink(missing_ok=True)


def test_a_file_that_came_since_is_not_recorded_as_read(
    folder: Path, clpds: Clpds, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = provenance.record

    def record(*arguments: object, **facts: object) -> None:
        (folder / "sharded" / "late.txt").write_text("late")
        original(*arguments, **facts)  # type: ignore[arg-type]

    monkeypatch.setattr(provenance, "record", record)
    assert clpds(FOLDERS["convert"].words.format(out="out"))[0] == 0
    read = provenance.read(folder / "out")
    assert read is not None
    assert "config.json" in read["inputs"]["model"]["files"]
    assert "late.txt" not in read["inputs"]["model"]["files"]
