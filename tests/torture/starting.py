"""Start ``clpds run`` as a user does; or, for a test that has a minute, fork what Python has imported already."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from tests.torture.killing import install

ROOT = Path(__file__).parents[2]


class Forked:
    """What `launcher.local` needs of a `subprocess.Popen` of ``python -m clpds``: a fork of this process."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], stderr: Any = None) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.environ.clear()
                os.environ.update(env)
                if stderr is not None:
                    os.dup2(stderr.fileno(), 2)
                status = _clpds(command[3:])
            finally:
                os._exit(status)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _clpds(words: Sequence[str]) -> int:
    import launcher.local
    from clpds.cli import main

    install()
    launcher.local.subprocess = SimpleNamespace(Popen=Forked)  # type: ignore[attr-defined]
    sys.argv = ["clpds", *words]
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def preload() -> None:
    """Import what a rank needs; nothing that starts a thread is done."""
    import clpds.training.loop
    import clpds.walk  # noqa: F401


class Start:
    """One ``clpds run`` of the recipe in ``folder``; what it says goes to ``folder/log``."""

    def __init__(self, folder: Path, words: Sequence[str], env: Mapping[str, str], *, fork: bool) -> None:
        command = [sys.executable, "-m", "clpds", "run", str(folder / "recipe.yaml"), *words]
        paths = {"PYTHONPATH": f"{ROOT / 'tests' / 'torture' / 'hook'}{os.pathsep}{ROOT}"}
        self.log = folder / "log"
        with self.log.open("w") as log:
            kind: Any = Forked if fork else subprocess.Popen
            self.process = kind(command, env={**os.environ, **paths, **env}, stderr=log)
        self.ranks: set[int] = set()

    def running(self) -> bool:
        """Whether the launcher lives; remembers the ranks that it has started."""
        if self.process.poll() is not None:
            return False
        with suppress(psutil.NoSuchProcess):  # it ends at this moment
            self.ranks |= {child.pid for child in psutil.Process(self.process.pid).children()}
        return True

    def end(self, expected: int | None = None, seconds: float = 1800) -> int:
        """Wait for the launcher and then for its ranks, which must not outlive it; the launcher's status."""
        deadline = time.monotonic() + seconds
        while self.running():
            assert time.monotonic() < deadline, f"still running: {self.log.read_text()}"
            time.sleep(0.02)
        deadline = time.monotonic() + 5
        while any(_lives(rank) for rank in self.ranks):
            assert time.monotonic() < deadline, "a rank has outlived its launcher"
            time.sleep(0.02)
        status: int = self.process.poll()
        assert expected in (None, status), self.log.read_text()
        return status


def _lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
