"""What a command reads: apart from what it writes, and the same at the end as at the beginning."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clpds.errors import UserError

Stamp = tuple[int, int, int, int]
"""Device, inode, size in bytes, time of the last change in ns."""
Stamps = dict[Path, Stamp]


def paths(step: Any) -> Iterator[Path]:
    """All paths in a step's fields, ``out`` among them."""
    return _paths(asdict(step))


def inputs_of(step: Any) -> list[Path]:
    """The paths in a step's fields but ``out``."""
    return list(_paths({key: value for key, value in asdict(step).items() if key != "out"}))


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _paths(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _paths(inner)


def require_apart(out: Path, inputs: Iterable[Path]) -> None:
    """UserError where ``out`` has no name, or is, contains, lies in or links to an input, by real path and by inode."""
    if out.absolute().name in ("", ".."):
        raise UserError(f"{out} is no name for an output; choose another")
    goal = real_path(out)
    for path in inputs:
        if not path.exists():
            continue  # a name in the hub, or the verb itself says that it is missing
        read = real_path(path)
        if _same(goal, read):
            raise UserError(f"{out} is {path}, which is read; choose another out")
        if any(_same(goal, parent) for parent in read.parents):
            raise UserError(f"{out} contains {path}, which is read; choose another out")
        if read.is_dir() and any(_same(read, parent) for parent in goal.parents):
            raise UserError(f"{out} lies in {path}, which is read; choose another out")
        for link in _links(read):
            target = real_path(link)
            if target == goal or goal in target.parents or (goal.is_file() and goal.samefile(link)):
                raise UserError(f"{out} contains what {link} links to, which is read; choose another out")


def real_path(path: Path) -> Path:
    """The path without links and ``..``, where links go in a circle too."""
    return Path(os.path.realpath(path))  # resolve() raises then


def _same(one: Path, other: Path) -> bool:
    """Whether both are one file or folder, which may be mounted in two places."""
    if one == other:
        return True
    first, second = _state(one), _state(other)
    return first is not None and second is not None and first[:2] == second[:2]


def _links(folder: Path) -> Iterator[Path]:
    """The files right below ``folder`` that are links, or have other names elsewhere."""
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.is_symlink() or _has_names(path))


def _has_names(path: Path) -> bool:
    """Whether a file has several names, as `init --link` makes them."""
    try:
        return path.is_file() and path.stat().st_nlink > 1
    except OSError:
        return False


def stamp(inputs: Iterable[Path]) -> Stamps:
    """What the files of ``inputs`` are now; of a folder all that lie in it, of a live training run none."""
    return {file: state for path in inputs for file in _files(path) if (state := _state(file)) is not None}


def require_unchanged(stamps: Stamps) -> None:
    """UserError that names the first file that is gone or is another than at the beginning."""
    for file, before in stamps.items():
        now = _state(file)
        if now != before:
            happened = "was removed" if now is None else "has changed"
            raise UserError(f"{file} {happened} while it was read; nothing was kept, run the command again")


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir() and not (path / "checkpoints").is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())


def _state(file: Path) -> Stamp | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
