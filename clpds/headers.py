"""What the weight files of a folder say of themselves, read without torch: names, kinds, shapes and places.

A safetensors file is a JSON header, then bytes. Of several files an index says which tensor lies where.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import prod
from operator import index
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from clpds.bounds import HEADER
from clpds.errors import UserError
from clpds.inside import read_json, require_inside
from clpds.refusals import require_given

T = TypeVar("T")
# Of a kind: the name that torch and config.json have for it, and the bytes of an element. In the order in which the
# library lays them out in a file.
KINDS = {
    "I64": ("int64", 8), "F64": ("float64", 8),
    "F32": ("float32", 4), "I32": ("int32", 4),
    "BF16": ("bfloat16", 2), "F16": ("float16", 2), "I16": ("int16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1), "I8": ("int8", 1), "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}  # fmt: skip
SAFETENSORS = "model.safetensors"


class Entry(NamedTuple):
    """One tensor of a file."""

    kind: str
    """As ``KINDS`` has it."""
    shape: tuple[int, ...]
    start: int
    """Where its bytes begin in the file."""
    stop: int


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises UserError where the header is damaged, or speaks of other bytes than the file has.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = file.stat().st_size - 8 - length
            if size < 0 or length > HEADER:
                raise ValueError("no header")
            header: dict[str, Any] = json.loads(stream.read(length), object_pairs_hook=partial(_once, file))
        header.pop("__metadata__", None)
        entries = {
            name: Entry(entry["dtype"], tuple(map(index, entry["shape"])), *map(index, entry["data_offsets"]))
            for name, entry in header.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        require_given(file, error)
        raise UserError(f"{file} is truncated or damaged (its header cannot be read); download it again") from error
    placed = {}
    end = 0
    for name, (kind, shape, start, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if not isinstance(kind, str) or kind not in KINDS:
            raise UserError(f"{file}: tensor {name} is of type {kind}, which is not supported")
        if start != end or min(shape, default=0) < 0 or stop - start != prod(shape) * KINDS[kind][1]:
            raise UserError(f"{file} is damaged (its header misplaces {name}); download it again")
        end = stop
        placed[name] = Entry(kind, shape, 8 + length + start, 8 + length + stop)
    if end != size:
        raise UserError(f"{file} is truncated or damaged ({size} bytes of weights instead of {end}); download it again")
    return placed


def read_shards(folder: Path, name: str, read: Callable[[Path], dict[str, T]]) -> dict[str, T] | None:
    """All tensors of the weight file ``name`` of ``folder``, or of those that ``name.index.json`` lists.

    None where there is neither. UserError where the index contradicts the files or names one elsewhere.
    """
    if (folder / name).is_file():
        return read(folder / name)
    listing = folder / f"{name}.index.json"
    if not listing.is_file():
        return None
    weight_map = _weight_map(listing)
    shards = {file: read(folder / file) for file in sorted(set(weight_map.values()))}
    lost = [f"{name} in {file}" for name, file in weight_map.items() if name not in shards[file]]
    if lost:
        raise UserError(f"{listing} lists {some(lost)}, which is not there; download the model again")
    return _joined(folder, shards)


def some(names: Iterable[str], limit: int = 5) -> str:
    """The first few of ``names`` and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _once(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; UserError where a name stands twice, since readers would differ in which one they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise UserError(f"{file}: its header names {twice} twice; do not trust this file")
    return found


def _joined(folder: Path, shards: Mapping[str, dict[str, T]]) -> dict[str, T]:
    """The tensors of all shards; UserError for one that two of them hold."""
    homes: dict[str, str] = {}
    for file, shard in shards.items():
        for name in shard:
            if homes.setdefault(name, file) != file:
                raise UserError(f"{folder / file} and {homes[name]} hold one tensor, {name}; download the model again")
    return {name: tensor for shard in shards.values() for name, tensor in shard.items()}


def _weight_map(listing: Path) -> dict[str, str]:
    try:
        weight_map: dict[str, str] = read_json(listing, HEADER)["weight_map"]
        files = sorted({str(file) for file in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        require_given(listing, error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{listing} is no valid index ({reason}); download it again") from error
    require_inside(listing, *files)
    for file in files:
        try:
            there = (listing.parent / file).is_file()
        except OSError as error:
            require_given(listing.parent / file, error)
            raise
        if not there:
            raise UserError(f"{listing.parent / file} is missing, but {listing.name} names it; download it again")
    return weight_map
