"""Files of a folder that came from elsewhere: of that folder, regular, and of bounded size, or refused."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from clpds.errors import UserError


def require_inside(where: object, *names: str) -> None:
    """UserError that quotes the file ``where`` unless each name is that of a file beside it: no path, no way up.

    Weights beside it may be links that lead elsewhere, such as to a scratch disk: their format shows what they are, and
    nothing else is taken from them. ``require_own`` is for files that are copied as they are.
    """
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
            raise UserError(f"{where} names {name!r}, which lies outside its folder; do not trust this folder")


def require_own(file: Path, limit: int) -> None:
    """UserError unless ``file`` is a regular file of at most ``limit`` bytes that lies in its own folder.

    A link may lead to a file of the same folder or, in the hub's cache, of the same repository
    (``models--NAME/snapshots/REVISION/FILE`` to ``models--NAME/blobs/HASH``). The folder itself may be a link.
    """
    if file.is_symlink():
        goal, home = file.resolve(), _home(file.parent)
        if not goal.is_relative_to(home):
            raise UserError(f"{file} is a link to {goal}, outside its folder; put a copy of the file in its place")
    try:
        _require_regular(file, file.stat(), limit)
    except FileNotFoundError as error:
        raise UserError(f"{file} is a link to nothing; put the file in its place") from error


def read_text(file: Path, limit: int, *, errors: str = "strict") -> str:
    """The UTF-8 text of a regular file of at most ``limit`` bytes; UserError for any other, never a wait for one.

    Raises OSError and UnicodeDecodeError as ``Path.read_text`` does.
    """
    # Not to wait for who writes into a FIFO; to regular files it means nothing.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        _require_regular(file, os.fstat(descriptor), limit)
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise _too_large(file, limit)
    return content.decode("utf-8", errors).replace("\r\n", "\n")


def read_json(file: Path, limit: int) -> Any:
    """What the JSON of ``read_text`` says; raises ValueError and RecursionError as ``json.loads`` does."""
    return json.loads(read_text(file, limit))


def _home(folder: Path) -> Path:
    """The folder that links may not leave: itself, or the repository in the hub's cache that it is a snapshot of."""
    root = folder.resolve()
    for parent in root.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return parent.parent
    return root


def _require_regular(file: Path, found: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, device or socket"
        raise UserError(f"{file} is {kind}, where a file is expected; remove it")
    if found.st_size > limit:
        raise _too_large(file, limit)


def _too_large(file: Path, limit: int) -> UserError:
    return UserError(f"{file} has over {limit:,} bytes, which no such file needs; is it what its name says?")
