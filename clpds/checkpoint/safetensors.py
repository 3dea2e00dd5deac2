"""The safetensors format: a JSON header, then bytes. Read row by row, written tensor by tensor.

The library maps whole files into memory, privately, which a cluster with strict accounting refuses
for a file larger than the memory, and it can write only what is in memory at once. Here a read
opens the file, reads the bytes asked for and closes it; written files equal the library's.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clpds.checkpoint.lazy import LazyTensor
from clpds.errors import UserError

# In the order in which the library lays them out in a file.
DTYPES = {
    "I64": torch.int64, "F64": torch.float64,
    "F32": torch.float32, "I32": torch.int32,
    "BF16": torch.bfloat16, "F16": torch.float16, "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LAYOUT = {dtype: place for place, dtype in enumerate(DTYPES.values())}
LONGEST_HEADER = 100 * 10**6  # bytes, the library's own limit
# Bytes read, looked at and written at once. They stay in the processor's cache from one to the next: 3.0 GB/s into
# the system's memory, and 1.4 GB/s with 16 MiB.
CHUNK = 4 * 2**20


def read_safetensors(file: Path) -> dict[str, LazyTensor]:
    """The tensors of ``file``, of which only the header is read.

    Raises UserError where the header is damaged, or speaks of other bytes than the file has.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = file.stat().st_size - 8 - length
            if size < 0 or length > LONGEST_HEADER:
                raise ValueError("no header")
            header: dict[str, Any] = json.loads(stream.read(length), object_pairs_hook=partial(_once, file))
        header.pop("__metadata__", None)
        entries = {
            name: (entry["dtype"], tuple(map(index, entry["shape"])), *map(index, entry["data_offsets"]))
            for name, entry in header.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is truncated or damaged (its header cannot be read); download it again") from error
    tensors = {}
    end = 0
    for name, (kind, shape, start, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if not isinstance(kind, str) or kind not in DTYPES:
            raise UserError(f"{file}: tensor {name} is of type {kind}, which is not supported")
        dtype = DTYPES[kind]
        if start != end or min(shape, default=0) < 0 or stop - start != prod(shape) * dtype.itemsize:
            raise UserError(f"{file} is damaged (its header misplaces {name}); download it again")
        end = stop
        rows = partial(_read_rows, file, 8 + length + start, shape, dtype)
        load = partial(rows, 0, shape[0]) if shape else partial(_read, file, 8 + length + start, shape, dtype)
        tensors[name] = LazyTensor(shape, dtype, load, rows if shape else None, origin=str(file))
    if end != size:
        raise UserError(f"{file} is truncated or damaged ({size} bytes of weights instead of {end}); download it again")
    return tensors


def _once(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; UserError where a name stands twice, since readers would differ in which one they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{file}: its header names {twice} twice; do not trust this file")
    return found


def write_safetensors(file: Path, tensors: Mapping[str, LazyTensor]) -> Iterator[int]:
    """Write one file, yielding the bytes of each chunk written; byte for byte what ``save_file`` gives.

    Raises UserError at the first NaN or infinity.
    """
    names = sorted(tensors, key=lambda name: (LAYOUT[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        tensor = tensors[name]
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in names:
            for chunk in finite_chunks(name, tensors[name]):
                stream.write(chunk.view(torch.uint8).numpy().data)
                yield chunk.nbytes


def finite_chunks(name: str, lazy: LazyTensor) -> Iterator[Tensor]:
    """The tensor's elements as contiguous 1-D chunks; UserError at the first NaN or infinity."""
    for chunk in _chunks(lazy):
        if lazy.dtype.is_floating_point and lazy.dtype.itemsize > 1 and not is_finite(chunk):
            kind = str(lazy.dtype).removeprefix("torch.")
            raise UserError(f"tensor {name} of {lazy.origin or 'the model'} holds NaN or infinity as {kind}")
        yield chunk


def is_finite(values: Tensor) -> bool:
    """Whether there is no NaN and no infinity; a finite sum is proof, and many times faster than a look at each."""
    total = values.sum(dtype=torch.promote_types(values.dtype, torch.float32))
    return bool(total.isfinite()) or bool(values.isfinite().all())


def _chunks(lazy: LazyTensor) -> Iterator[Tensor]:
    if lazy.rows is None or not lazy.numel:
        pieces = iter([lazy.load()])
    else:
        step = max(1, CHUNK * lazy.shape[0] // lazy.nbytes)
        pieces = (lazy.rows(row, min(row + step, lazy.shape[0])) for row in range(0, lazy.shape[0], step))
    for piece in pieces:
        yield from torch.split(piece.reshape(-1).contiguous(), CHUNK // lazy.dtype.itemsize)


def _read_rows(file: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype, start: int, stop: int) -> Tensor:
    start, stop, _ = slice(start, stop).indices(shape[0])
    width = prod(shape[1:]) * dtype.itemsize
    return _read(file, offset + start * width, (max(0, stop - start), *shape[1:]), dtype)


def _read(file: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    rest = tensor.reshape(-1).view(torch.uint8).numpy().data
    try:
        with file.open("rb", buffering=0) as stream:
            stream.seek(offset)
            while len(rest):
                count = stream.readinto(rest)
                if not count:
                    raise UserError(f"{file} became shorter while it was read")
                rest = rest[count:]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    return tensor
