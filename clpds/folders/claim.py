"""A claim: one command at a time works on an output, and what it reads stays the same meanwhile.

The lock is a file beside the output. It ends with the process, whoever ends that, and on NFS too, where Linux turns
flock into a lock of the server. A file system without locks keeps nobody apart.
"""

import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from clpds.bounds import MARK
from clpds.errors import UserError, said
from clpds.folders import mark
from clpds.folders.inputs import Stamps, require_apart, require_unchanged, stamp
from clpds.inside import read_text

PATIENCE = 2.0  # seconds for a command that was just ended to be gone
POLL = 0.05


class InUseError(UserError):
    """Another command works on the output, and nothing of it may be changed."""


@dataclass
class Claim:
    """An output that this process has to itself, and what the inputs were when it began."""

    out: Path
    stamps: Stamps = field(default_factory=dict)

    def reads(self, *paths: Path) -> None:
        """Watch these inputs too, from now on."""
        for file, state in stamp(paths).items():
            self.stamps.setdefault(file, state)

    def require_unchanged(self) -> None:
        """UserError that names the first input that has changed since the work began."""
        require_unchanged(self.stamps)


_held: dict[Path, Claim] = {}


def held(out: Path) -> Claim | None:
    """This process's claim on ``out``, where it has one."""
    return _held.get(_key(out))


@contextmanager
def claimed(out: Path, inputs: Iterable[Path] = (), *, task_of: str | None = None) -> Iterator[Claim]:
    """Keep every other command off ``out`` meanwhile, and note what ``inputs`` are now.

    A claim inside of one for the same output is that one. ``task_of`` names the work that tasks of an array do
    together: equal ones share the claim. Folders above ``out`` are made, and removed where nothing came of them.
    Raises UserError for an ``out`` that is an input, or lies in or around one, and InUseError that names host, process
    and command where another one works on it.
    """
    inputs = list(inputs)
    require_apart(out, inputs)
    if (outer := held(out)) is not None:
        outer.reads(*inputs)
        yield outer
        return
    with made_parents(out), _locked(out, task_of):
        claim = Claim(out, stamp(inputs))
        _held[_key(out)] = claim
        try:
            yield claim
        finally:
            del _held[_key(out)]


def _key(out: Path) -> Path:
    return out.parent.resolve() / out.absolute().name


@contextmanager
def made_parents(out: Path) -> Iterator[None]:
    """Make the folders above ``out``; those made here and still empty at the end are removed.

    UserError where one cannot be made.
    """
    new = [path for path in out.absolute().parents if not os.path.lexists(path)]
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {said(error)}") from error
    try:
        yield
    finally:
        for parent in new:
            with suppress(OSError):  # something is in it
                parent.rmdir()


@contextmanager
def _locked(out: Path, task_of: str | None) -> Iterator[None]:
    path = out.absolute().with_name(f"{out.absolute().name}.clpds-lock")
    deadline = time.monotonic() + PATIENCE
    while (descriptor := _attempt(out, path, task_of)) is None:
        if time.monotonic() > deadline:
            raise InUseError(f"{out} is in use by {_owner(path)}: wait for it or choose another out")
        time.sleep(POLL)
    try:
        yield
    finally:
        if flock(descriptor, fcntl.LOCK_EX):  # the last of the tasks that share it
            with suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _attempt(out: Path, path: Path, task_of: str | None) -> int | None:
    """The open lock file, locked for this process or shared with its fellow tasks; None where others have it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {said(error)}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{path} is no lock of clpds, and {out} needs that name; choose another out")
        text = _read(descriptor)
        if text and mark.parse(text) is None:
            raise UserError(f"{path} is no lock of clpds, and {out} needs that name; choose another out")
        if flock(descriptor, fcntl.LOCK_EX):
            if not _is_there(descriptor, path):  # removed by its owner between the opening and the lock
                os.close(descriptor)
                return None
            own = mark.dump(mark.own_mark("lock", out, task_of))
            with suppress(OSError):  # a full disk: the lock holds, only nobody can read whose it is
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, own.encode(), 0)
            if task_of is None or flock(descriptor, fcntl.LOCK_SH):
                return descriptor
            os.close(descriptor)
            return None
        if task_of is not None and flock(descriptor, fcntl.LOCK_SH):
            now = mark.parse(_read(descriptor))
            if _is_there(descriptor, path) and now is not None and now.task_of == task_of:
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that others find by its name; opened once more, so that NFS asks the server."""
    try:
        again = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return os.path.samestat(os.fstat(descriptor), os.fstat(again))
    finally:
        os.close(again)


def flock(descriptor: int, kind: int) -> bool:
    """Whether this process has the lock now; a file system without locks says so to everybody."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _read(descriptor: int) -> str:
    return os.pread(descriptor, MARK, 0).decode(errors="replace")


def _owner(path: Path) -> str:
    try:
        owner = mark.parse(read_text(path, MARK, errors="replace"))
    except (UserError, OSError):
        owner = None
    return owner.owner() if owner else "another command"
