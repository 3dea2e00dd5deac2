"""The header of a GGUF file.

The ``gguf`` package reads it too, but makes an object of each token and each merge, two
seconds for 49,152 of them, where a login node should answer at once.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from clpds.bounds import COUNTED, DIMENSIONS, ENTRIES, FIELDS, LAYERS, TENSORS, TEXT, WIDTH
from clpds.errors import UserError
from clpds.refusals import require_given

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# By the end of a field's name.
_MOST = {
    "block_count": LAYERS, "expert_count": COUNTED, "head_count": COUNTED,
    "embedding_length": WIDTH, "feed_forward_length": WIDTH,
}  # fmt: skip


class Length(int):
    """How many entries an array has."""


class Header(NamedTuple):
    """What a GGUF file says before its weights."""

    file: Path
    fields: dict[str, Any]
    """Values by name; an array stands there as its Length."""
    tensors: dict[str, tuple[int, int, int]]
    """How many elements, the number of the type, and where it begins in the file."""

    def text(self, key: str) -> str:
        """UserError unless a text stands at ``key``."""
        value = self.fields.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a text")
        return value

    def number(self, key: str) -> int:
        """UserError unless a whole number stands at ``key``, 1 or more."""
        value = self.fields.get(key)
        if type(value) is not int or value < 1:
            raise self._wrong(key, "a whole number, 1 or more")
        return value

    def length(self, key: str) -> int:
        """UserError unless an array with something in it stands at ``key``."""
        value = self.fields.get(key)
        if not isinstance(value, Length) or value < 1:
            raise self._wrong(key, "a list")
        return int(value)

    def _wrong(self, key: str, expected: str) -> UserError:
        value = self.fields.get(key)
        found = "missing" if value is None else "a list" if isinstance(value, Length) else f"{value!r:.80}"
        return UserError(f"{self.file}: {key} is {found}; expected {expected}; fetch the file again")


def read_header(file: Path) -> Header:
    """Fields and tensors of the file; UserError where it is damaged."""
    try:
        with file.open("rb") as source:
            return _read(file, source)
    except (OSError, struct.error, ValueError, KeyError, OverflowError) as error:
        require_given(file, error)
        raise UserError(f"{file} is no whole GGUF file ({' '.join(str(error).split())}); fetch it again") from error


def _read(file: Path, source: BinaryIO) -> Header:
    magic, version, tensors, fields = struct.unpack("<4sIQQ", source.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError("its first bytes are not those of GGUF 2 or 3")
    _require("fields", fields, FIELDS)
    _require("tensors", tensors, TENSORS)
    values = {}
    for _ in range(fields):
        name = _text(source)
        values[name] = _value(source, _number(source, "I"))
        if (most := next((limit for end, limit in _MOST.items() if name.endswith(end)), None)) is not None:
            _require(name, values[name], most)
    found = {}
    for _ in range(tensors):
        name, dimensions = _text(source), _number(source, "I")
        _require(f"dimensions of {name}", dimensions, DIMENSIONS)
        elements = prod(_number(source, "Q") for _ in range(dimensions))
        found[name] = elements, _number(source, "I"), _number(source, "Q")
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise ValueError(f"general.alignment is {alignment!r:.80}")
    first = -(-source.tell() // alignment) * alignment
    return Header(file, values, {name: (count, kind, first + place) for name, (count, kind, place) in found.items()})


def _value(source: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(source)
    if kind != _ARRAY:
        return _number(source, _NUMBERS[kind])
    inner, length = struct.unpack("<IQ", source.read(12))
    _require("entries of an array", length, ENTRIES)
    if inner in _NUMBERS:
        source.seek(length * struct.calcsize(_NUMBERS[inner]), 1)
    elif inner == _STRING:
        for _ in range(length):  # passed over, not made: there are a hundred thousand tokens and merges
            source.seek(_number(source, "Q"), 1)
    else:
        raise ValueError(f"an array of kind {inner}")
    return Length(length)


def _require(what: str, number: Any, most: int) -> None:
    if isinstance(number, int) and number > most:
        raise ValueError(f"{what}: {number:,}, and no model has over {most:,}")


def _number(source: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", source.read(struct.calcsize(f"<{form}")))[0]


def _text(source: BinaryIO) -> str:
    length = _number(source, "Q")
    _require("bytes of a text", length, TEXT)
    raw = source.read(length)
    if len(raw) < length:
        raise ValueError("it ends too early")
    return raw.decode("utf-8")
