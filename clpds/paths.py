"""Paths that no command can work with, refused before any work is done."""

import stat
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from clpds.errors import UserError

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_paths(value: Any) -> None:
    """Look at all paths and texts in a dataclass of options, whatever they are for.

    Raises UserError for one that is not UTF-8, which no record could name, and for a path of what is neither file nor
    folder: inputs are read several times (by ranks, for their hash), and outputs are renamed into their place.
    """
    if isinstance(value, Path | str):
        _check_text(str(value))
        if isinstance(value, Path):
            if str(value).startswith("~"):
                raise UserError(f"{value}: only a shell knows ~; write the folder out")
            _check_kind(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            check_paths(key)
            check_paths(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            check_paths(inner)
    elif is_dataclass(value):
        for one in fields(value):
            check_paths(getattr(value, one.name))


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{text.encode(errors='surrogateescape')!r} is not UTF-8; rename it") from error
    if "\0" in text:
        raise UserError(f"{text!r} has a NUL character in it, which no path has")


def _check_kind(path: Path) -> None:
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError:
        return  # whoever needs it says what is wrong
    if kind in KINDS:
        raise UserError(f"{path} is {KINDS[kind]}; give a file, which can be read more than once and replaced")
