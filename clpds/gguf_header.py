"""The header of a GGUF file.

The ``gguf`` package reads it too, but makes an object of each token and each merge, two
seconds for 49,152 of them, where a login node should answer at once.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from clpds.errors import UserError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST = 2**24  # bytes of one text: more is no GGUF file


class Header(NamedTuple):
    """What a GGUF file says before its weights."""

    fields: dict[str, Any]
    """Of an array only the length."""
    tensors: dict[str, tuple[int, int, int]]
    """How many elements, the number of the type, and where it begins in the file."""


def read_header(file: Path) -> Header:
    """Fields and tensors of the file; UserError where it is damaged."""
    try:
        with file.open("rb") as source:
            return _read(source)
    except (OSError, struct.error, ValueError, KeyError, UnicodeDecodeError) as error:
        raise not_whole(file, error) from error


def not_whole(file: Path, error: Exception) -> UserError:
    """The line for a damaged file."""
    return UserError(f"{file} is no whole GGUF file ({' '.join(str(error).split())}); fetch it again")


def _read(source: BinaryIO) -> Header:
    magic, version, tensors, fields = struct.unpack("<4sIQQ", source.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError("its first bytes are not those of GGUF 2 or 3")
    values = {}
    for _ in range(fields):
        name = _text(source)
        values[name] = _value(source, _number(source, "I"))
    found = {}
    for _ in range(tensors):
        name, dimensions = _text(source), _number(source, "I")
        elements = prod(_number(source, "Q") for _ in range(dimensions))
        found[name] = elements, _number(source, "I"), _number(source, "Q")
    alignment = values.get("general.alignment", 32)
    first = -(-source.tell() // alignment) * alignment
    return Header(values, {name: (count, kind, first + place) for name, (count, kind, place) in found.items()})


def _value(source: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(source)
    if kind != _ARRAY:
        return _number(source, _NUMBERS[kind])
    inner, length = struct.unpack("<IQ", source.read(12))
    if inner in _NUMBERS:
        source.seek(length * struct.calcsize(_NUMBERS[inner]), 1)
    elif inner == _STRING:
        for _ in range(length):  # passed over, not made: there are a hundred thousand tokens and merges
            source.seek(_number(source, "Q"), 1)
    else:
        raise ValueError(f"an array of kind {inner}")
    return length


def _number(source: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", source.read(struct.calcsize(f"<{form}")))[0]


def _text(source: BinaryIO) -> str:
    length = _number(source, "Q")
    if length > _LONGEST:
        raise ValueError(f"a text of {length} bytes")
    raw = source.read(length)
    if len(raw) < length:
        raise ValueError("it ends too early")
    return raw.decode("utf-8")
