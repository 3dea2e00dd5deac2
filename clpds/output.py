"""Writing a folder so that one which exists is whole.

Everything goes into ``NAME.partial`` beside the goal and is renamed when complete. What stood there
is ``NAME.old`` for the moment between two renames; a process killed in it leaves that to be put back.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clpds.errors import UserError, said


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raise UserError if ``out`` exists or cannot be replaced, before any work is done for it."""
    _put_back(out)
    if not out.exists():
        return
    if not overwrite:
        raise UserError(f"{out} exists; choose another folder or pass --overwrite")
    if out.is_symlink() or not out.is_dir():
        raise UserError(f"{out} is a file or a link; choose another name for the output folder")
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"{out} holds the current directory and will not be replaced; choose another folder")


def check_file(out: Path) -> None:
    """Raise UserError unless the file ``out`` can be written, its folder perhaps to be made, before any work for it."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if there == out.absolute() and there.is_dir():
        raise UserError(f"{out} is a folder; choose another name for the file")
    if there != out.absolute() and not there.is_dir():
        raise UserError(f"{out} cannot be written: {there} is a file; choose another name")


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
    and what stood at ``out`` stands. UserError where the folder cannot be made, or the system refuses to
    read or write something on the way: a full disk, a quota, a disk that fails.
    """
    check_free(out, overwrite=overwrite)
    check_disk(out, need)
    partial = _beside(out, "partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {said(error)}") from error
    try:
        yield partial
        replace_folder(partial, out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{out} cannot be written: {said(error)}; nothing was kept of it") from error
        raise


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` unless it exists; one that was made is removed after an error, with parents made for it."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {said(error)}") from error
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in new[1:]:
            with suppress(OSError):  # something else is in it by now
                parent.rmdir()
        raise


def replace_folder(new: Path, out: Path) -> None:
    """Rename ``new`` to ``out``; a folder that stood there is moved aside first, then removed."""
    for file in new.rglob("*"):
        sync(file)
    old = _beside(out, "old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if out.exists():
            out.rename(old)
        new.rename(out)
    except BaseException:
        _put_back(out)
        raise
    sync(out.parent)
    if old.exists():
        old.rename(new)  # half removed, it must not be what is put back
        shutil.rmtree(new, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: readers see the old text or the new, never a part."""
    partial = _beside(path, "partial")
    with naming(path), _unless_written(partial), partial.open("w", encoding="utf-8") as file:
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


@contextmanager
def _unless_written(partial: Path) -> Iterator[None]:
    """Remove ``partial`` where it could not be written whole."""
    try:
        yield
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(f"{out.name}.{suffix}")


def _put_back(out: Path) -> None:
    """Undo the first of the two renames where the second did not come."""
    if not out.exists() and (old := _beside(out, "old")).exists():
        old.rename(out)
