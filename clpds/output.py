"""Writing a folder so that one which exists is whole.

Everything goes into ``NAME.partial`` beside the goal and is renamed when complete.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clpds.errors import UserError


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raise UserError if ``out`` exists, before any work is done for it."""
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; choose another folder or pass --overwrite")


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
def new_folder(out: Path, *, overwrite: bool = False, need: int = 0, resume: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``out`` when the block ends without an error.

    With ``resume`` the partial folder is kept after an error and handed out again the next time,
    so that the caller can go on where it stopped. ``need`` is the size in bytes to be written.
    """
    check_free(out, overwrite=overwrite)
    check_disk(out, need)
    partial = out.with_name(out.name + ".partial")
    if partial.exists() and not resume:
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
    except BaseException:
        if not resume:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    replace_folder(partial, out)


def replace_folder(new: Path, out: Path) -> None:
    """Rename ``new`` to ``out``; a folder that stood there is moved aside first, then removed."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: readers see the old text or the new, never a part."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
