"""Writing an output so that one which exists is whole, and what stood there stands until then.

Everything goes into a folder of its own beside the goal, ``NAME.clpds-1a2b3c4d``, which contains a mark, and is renamed
when complete. A process that is killed leaves such folders; the next command for the same output puts back what was
moved aside, and removes the rest.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import IO, Any, TypeVar
from uuid import uuid4

from clpds.errors import UserError, said
from clpds.folders import mark
from clpds.folders.claim import Claim, claimed
from clpds.folders.inputs import inputs_of
from clpds.folders.ours import not_ours, require_file, require_replaceable

S = TypeVar("S", contravariant=True)


@contextmanager
def claimed_step(step: Any, *, task_of: str | None = None) -> Iterator[Claim]:
    """Keep other commands off ``step.out``, note what the step's inputs are, and put back what a kill left aside.

    Raises UserError, before any work is done, if ``step.out`` exists or cannot be replaced, or is one of the inputs.
    """
    with claimed(step.out, inputs_of(step), task_of=task_of) as claim:
        tidy(step.out)
        require_replaceable(step.out, overwrite=step.overwrite)
        yield claim


def makes_folder(work: Callable[[S], None]) -> Callable[[S], None]:
    """Let a verb have ``step.out``, a folder, to itself while it works: ``claimed_step`` round a function of a step."""

    @wraps(work)
    def claiming(step: S) -> None:
        with claimed_step(step):
            work(step)

    return claiming


def makes_file(work: Callable[[S], None]) -> Callable[[S], None]:
    """Let a verb have ``step.out``, a file, to itself while it works; without an ``out`` there is nothing to claim."""

    @wraps(work)
    def claiming(step: Any) -> None:
        if step.out is None:
            work(step)
            return
        with claimed(step.out, inputs_of(step)):
            tidy(step.out)
            require_file(step.out, overwrite=step.overwrite)
            work(step)

    return claiming


def check_disk(out: Path, need: int) -> None:
    """Raise UserError unless the disk that will hold ``out`` has ``need`` bytes free."""
    parent = next(p for p in out.absolute().parents if p.exists())
    free = shutil.disk_usage(parent).free
    if need > free:
        raise UserError(f"{out} needs {human_bytes(need)}, but {parent} has {human_bytes(free)} free")


def human_bytes(size: float) -> str:
    """``540.2 MB``: decimal units, as disks and the Hub count them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


@contextmanager
def new_folder(out: Path, *, overwrite: bool = False, need: int = 0) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``out`` when the block ends without an error.

    ``need`` is the size in bytes to be written. After an error or an interruption nothing is left,
    and what stood at ``out`` stands. UserError where the folder cannot be made, where an input of the step has changed
    meanwhile, or the system refuses to read or write something on the way: a full disk, a quota, a disk that fails.
    """
    with claimed(out) as claim:
        tidy(out)
        require_replaceable(out, overwrite=overwrite)
        check_disk(out, need)
        with _beside(out) as stage:
            new = stage / "new"
            new.mkdir()
            yield new
            for file in new.rglob("*"):
                sync(file)
            claim.require_unchanged()
            require_replaceable(out, overwrite=overwrite)

            def check(old: Path) -> None:  # somebody may have put a file there since
                if reason := not_ours(old):
                    raise UserError(f"{out} will not be replaced: {reason}; choose another folder")

            _exchange(new, out, stage / "old", check)


def write_file(out: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Write the output file ``out`` whole or not at all, and make its folders.

    A file that is there is replaced where ``overwrite`` says so, or where it is plainly clpds's own. UserError
    otherwise, where an input of the step has changed meanwhile, and where it cannot be written.
    """
    with claimed(out) as claim:
        tidy(out)
        require_file(out, overwrite=overwrite)
        with _beside(out) as stage:
            new = stage / "new"
            with naming(out), new.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            claim.require_unchanged()
            require_file(out, overwrite=overwrite)
            new.replace(out)
            sync(out.absolute().parent)


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A marked folder beside ``out``, removed at the end with all that is left in it."""
    stage = out.absolute().with_name(f"{out.absolute().name}.clpds-{uuid4().hex[:8]}")
    try:
        stage.mkdir()
        mark.put_mark(stage, "new", out)
    except OSError as error:
        remove_marked(stage)
        raise UserError(f"{out} cannot be written: {said(error)}") from error
    try:
        yield stage
    except OSError as error:
        raise UserError(f"{out} cannot be written: {said(error)}; nothing was kept of it") from error
    finally:
        _clear(stage, out)


def _exchange(new: Path, out: Path, old: Path, check: Callable[[Path], None] = lambda old: None) -> None:
    """Rename ``new`` to ``out``; what stood there is moved to ``old`` and looked at with ``check``.

    After an error it stands there again.
    """
    try:
        if out.exists():
            out.rename(old)
            check(old)
        new.rename(out)
    except BaseException:
        if old.exists() and not os.path.lexists(out):
            old.rename(out)
        raise
    sync(out.absolute().parent)


def tidy(out: Path) -> None:
    """Put back what a killed command had moved aside of ``out``, and remove what else it left; ``out`` is claimed."""
    parent, name = out.absolute().parent, out.absolute().name
    pattern = re.compile(re.escape(name) + r"\.clpds-[0-9a-f]{8}")
    with suppress(FileNotFoundError):
        for stage in [Path(entry.path) for entry in os.scandir(parent) if pattern.fullmatch(entry.name)]:
            if not mark.is_marked(stage, "new", out):
                with suppress(OSError):  # killed before the mark was there, it is empty
                    stage.rmdir()
                continue
            _clear(stage, out)


def _clear(stage: Path, out: Path) -> None:
    """Remove a stage; what was moved aside of ``out`` goes back first, where nothing has come in its place."""
    old = stage / "old"
    if old.is_dir() and not os.path.lexists(out):
        old.rename(out)
    remove_marked(stage)


def remove_marked(folder: Path) -> None:
    """Remove a folder that `put_mark` marked, the mark last, so that the next command goes on with a killed removal."""
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            if entry.name != mark.FILE:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        (folder / mark.FILE).unlink(missing_ok=True)
        folder.rmdir()


def replace_folder(new: Path, out: Path) -> None:
    """Rename ``new`` to ``out``, both of a training run's own; what stood there is moved aside first, then removed."""
    for file in new.rglob("*"):
        sync(file)
    old = out.with_name(f"{out.name}.clpds-old")
    shutil.rmtree(old, ignore_errors=True)
    _exchange(new, out, old)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file of a folder of ours atomically: readers see the old text or the new, never a part."""
    partial = path.with_name(f"{path.name}.clpds-partial")
    with naming(path), _unless_written(partial), _open_own(partial) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def sync(path: Path) -> None:
    """Make a file, or the renames inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that arises at an open file say which one it is."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _open_own(partial: Path) -> IO[str]:
    """A file to write, which is never what a link leads to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(partial, flags, 0o666), "w", encoding="utf-8")


@contextmanager
def _unless_written(partial: Path) -> Iterator[None]:
    """Remove ``partial`` where it could not be written whole."""
    try:
        yield
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
