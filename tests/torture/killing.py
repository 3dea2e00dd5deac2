"""Kill a training at a chosen step of a save: Python tells an audit hook of every file before it is touched.

No product code takes part. The hook is installed in the ranks by ``hook/sitecustomize.py``, or by the process that
forks them, and reads what to do from the environment.
"""

import json
import os
import re
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import psutil

ORDER = "CLPDS_TORTURE"  # a Kill as JSON, or {"log": FILE}
TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
VICTIMS = ("rank", "ranks", "launcher")


@dataclass(frozen=True)
class Kill:
    """Before touch number ``touch`` (from 1) of save number ``save`` (from 1) of this start, as ``rank`` does them."""

    rank: int
    save: int
    touch: int
    victim: str


def install() -> None:
    """Watch this process, where it is a rank that has an order."""
    order: dict[str, Any] = json.loads(os.environ.get(ORDER, "{}"))
    if order and "RANK" in os.environ:
        sys.addaudithook(_Watch(order).see)


class _Watch:
    """Counts what a rank does to its checkpoints; a save begins with the first touch of a new .clpds-partial."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.kill = Kill(**order) if "touch" in order else None
        self.log = os.open(f"{order['log']}-{os.environ['RANK']}", os.O_CREAT | os.O_WRONLY) if "log" in order else None
        self.saves, self.touches, self.name = 0, 0, ""

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in TOUCHES:
            return
        paths = [os.fsdecode(part) for part in arguments[:2] if isinstance(part, str | bytes | os.PathLike)]
        if not any("/checkpoints/" in path for path in paths):
            return
        name = next((part for part in paths[0].split("/") if re.fullmatch(r"step-\d+\.clpds-partial", part)), "")
        if name not in ("", self.name):
            self.saves, self.touches, self.name = self.saves + 1, 0, name
        if not self.saves:
            return  # what is read before the first step
        self.touches += 1
        if self.log is not None:
            os.write(self.log, (json.dumps([self.saves, self.touches, event, paths[-1]]) + "\n").encode())
        here = self.kill and (int(os.environ["RANK"]), self.saves, self.touches)
        if self.kill and here == (self.kill.rank, self.kill.save, self.kill.touch):
            self.kill, victim = None, self.kill.victim  # what follows touches files of /proc
            strike(os.getppid(), os.getpid(), victim)


def strike(launcher: int, rank: int, victim: str) -> None:
    """SIGKILL to a rank, to all ranks, or to the launcher alone."""
    ranks = [rank]
    if victim == "ranks":  # the killer last, if it is one of them
        ranks = sorted((child.pid for child in psutil.Process(launcher).children()), key=os.getpid().__eq__)
    for process in [launcher] if victim == "launcher" else ranks:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def environment(order: Kill | dict[str, Any] | None) -> dict[str, str]:
    """What a start gets that is to be killed, or to log what it does."""
    return {ORDER: json.dumps(asdict(order) if isinstance(order, Kill) else order or {})}
