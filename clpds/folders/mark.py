"""Marks: who made a temporary folder, a work folder or a lock, and for which output.

Whatever clpds leaves beside an output for a while is called ``NAME.clpds-...`` and contains a mark. A name alone proves
nothing: without a mark that fits, nothing is moved or removed.
"""

import json
import os
import shlex
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clpds.bounds import MARK
from clpds.errors import UserError
from clpds.inside import read_text

FILE = "mark.json"
LONGEST_COMMAND = 200  # characters of a command that are kept


@dataclass(frozen=True)
class Mark:
    """What a temporary folder or a lock says of itself."""

    clpds: str
    """What it is: ``new`` (an output being written), ``work``, ``lock``, ``folder`` (an output that grows)."""
    goal: str
    """Name of the output beside which it lies."""
    host: str
    pid: int
    command: str
    since: str
    """UTC, ISO 8601."""
    task_of: str | None = None
    """Of a lock: the work that several tasks do together, which may share it."""

    def owner(self) -> str:
        """``process 12 on node3 (clpds data --out de)``."""
        return f"process {self.pid} on {self.host} ({self.command})"


def own_mark(kind: str, out: Path, task_of: str | None = None) -> Mark:
    """The mark of this process for ``out``."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    if len(command) > LONGEST_COMMAND:
        command = command[: LONGEST_COMMAND - 3] + "..."
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Mark(kind, out.absolute().name, socket.gethostname(), os.getpid(), command, since, task_of)


def dump(mark: Mark) -> str:
    """The mark as a line of JSON."""
    return json.dumps(asdict(mark)) + "\n"


def parse(text: str) -> Mark | None:
    """The mark that ``dump`` wrote, or None."""
    try:
        document: dict[str, Any] = json.loads(text)
        mark = Mark(**document)
    except (ValueError, TypeError, RecursionError):
        return None
    return mark if isinstance(mark.clpds, str) and isinstance(mark.goal, str) else None


def put_mark(folder: Path, kind: str, out: Path) -> None:
    """Mark ``folder``, which exists, as one that this process made for ``out``."""
    (folder / FILE).write_text(dump(own_mark(kind, out)), encoding="utf-8")


def read_mark(folder: Path) -> Mark | None:
    """The mark of ``folder``; None where there is none, or where it is no plain small file."""
    path = folder / FILE
    if folder.is_symlink() or path.is_symlink():
        return None
    try:
        return parse(read_text(path, MARK))
    except (UserError, OSError, UnicodeDecodeError):
        return None


def is_marked(folder: Path, kind: str, out: Path) -> bool:
    """Whether ``folder`` says that clpds made it for ``out``, as a ``kind``."""
    mark = read_mark(folder)
    return mark is not None and (mark.clpds, mark.goal) == (kind, out.absolute().name)
