"""A disk that is full, read-only or failing: one line, exit 2, what was there before stands, what is left goes."""

import errno
import os
import resource
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.bad_inputs.inputs import write_good
from tests.bad_inputs.row import Row
from tests.bad_inputs.test_table import check, listing
from tests.conftest import Mount
from tests.test_cli import call

COMMANDS = {
    "init": "init --method random --source english --tokenizer tokenizer --overwrite --out {out}",
    "convert": "convert sharded {out} --overwrite",
    "data": "data --input de.txt --tokenizer tokenizer --sequence-length 16 --validation-fraction 0.2 --workers 1 "
    "--overwrite --out {out}",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_good(folder)
    return folder


class Command:
    """A verb that replaces a folder on the disk, and what it says."""

    def __init__(self, verb: str, good: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
        self.words = shlex.split(COMMANDS[verb].format(out=disk / "out"))
        self.monkeypatch, self.capfd, self.disk = monkeypatch, capfd, disk
        monkeypatch.chdir(good)

    def succeeds(self) -> None:
        assert call(self.monkeypatch, *self.words) == 0, self.capfd.readouterr().err
        assert [path.name for path in self.disk.iterdir()] == ["out"]  # no temporary file of an earlier start

    def fails(self, says: str) -> None:
        """With one line, and the folder stays what it was."""
        before = listing(self.disk / "out")
        self.capfd.readouterr()
        status = call(self.monkeypatch, *self.words)
        check(Row("", self.words[0], says), status, self.capfd.readouterr().err)
        assert listing(self.disk / "out") == before


@pytest.fixture(params=COMMANDS)
def command(
    request: pytest.FixtureRequest,
    good: Path,
    disk: tuple[Path, Mount],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    return Command(request.param, good, disk[0], monkeypatch, capfd)


def test_a_disk_without_room_or_read_only(command: Command, disk: tuple[Path, Mount]) -> None:
    """Room runs out at one file after the other, and inside one; then nothing may be written at all."""
    path, mount = disk
    command.succeeds()
    files = len(list(path.rglob("*")))
    for more in sorted({1, 2, files // 2, files - 1}):
        mount(f"nr_inodes={len(list(path.rglob('*'))) + 1 + more}")
        command.fails("No space left on device")
    mount("nr_inodes=0")
    weights = sum(file.stat().st_size for file in path.glob("out/*.safetensors"))  # so much is asked for before
    mount(f"size={sum(file.stat().st_blocks * 512 for file in path.rglob('*')) + weights + 8192}")
    command.fails("No space left on device")
    mount("size=50%,ro")
    command.fails("Read-only file system")
    mount("rw")
    command.succeeds()


@pytest.mark.parametrize(("number", "code"), [(0, errno.EIO), (3, errno.EIO), (2, errno.EDQUOT)])
def test_a_disk_that_cannot_keep_what_was_written(
    command: Command, number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of fsync is raised in its place: a device that fails on purpose needs a kernel module, and so does a
    quota; network file systems tell of one when they are asked to keep what was written."""
    command.succeeds()
    calls = iter(range(10**6))

    def fail(descriptor: int) -> None:
        if next(calls) == number:
            raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        command.fails(os.strerror(code))
    command.succeeds()


def test_a_file_larger_than_the_shell_allows(command: Command) -> None:
    """``ulimit -f`` is the one limit on what a user writes that every system has."""
    command.succeeds()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(file.stat().st_size for file in command.disk.rglob("*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, before[1]))
    try:
        command.fails("File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    command.succeeds()
