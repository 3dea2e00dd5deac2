"""The safetensors format: a JSON header, then bytes. Read row by row, written tensor by tensor.

The library maps whole files into memory, privately, which a cluster with strict accounting refuses
for a file larger than the memory, and it can write only what is in memory at once. Here a read
opens the file, reads the bytes asked for and closes it; written files equal the library's.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clpds.checkpoint.lazy import LazyTensor
from clpds.errors import UserError
from clpds.headers import KINDS, read_header

DTYPES: dict[str, torch.dtype] = {kind: getattr(torch, name) for kind, (name, _) in KINDS.items()}
NAMES = {dtype: kind for kind, dtype in DTYPES.items()}
LAYOUT = {dtype: place for place, dtype in enumerate(DTYPES.values())}
# Bytes read, looked at and written at once. They stay in the processor's cache from one to the next: 3.0 GB/s into
# the system's memory, and 1.4 GB/s with 16 MiB.
CHUNK = 4 * 2**20
COPIED = 2**30  # bytes that the system is asked to copy at once
Buffer = bytes | memoryview


def read_safetensors(file: Path) -> dict[str, LazyTensor]:
    """The tensors of ``file``, of which only the header is read; UserError where that is damaged."""
    tensors = {}
    for name, (kind, shape, start, _) in read_header(file).items():
        rows = partial(_read_rows, file, start, shape, DTYPES[kind])
        load = partial(rows, 0, shape[0]) if shape else partial(_read, file, start, shape, DTYPES[kind])
        tensors[name] = LazyTensor(shape, DTYPES[kind], load, rows if shape else None, str(file), (file, name))
    return tensors


def write_safetensors(file: Path, tensors: Mapping[str, LazyTensor]) -> Iterator[Buffer]:
    """Write one file, yielding each chunk when it is written; byte for byte what ``save_file`` gives.

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
        for chunk in _contents(len(text).to_bytes(8, "little") + text, {name: tensors[name] for name in names}):
            stream.write(chunk)
            yield chunk


def copy_safetensors(source: Path, file: Path) -> Iterator[Buffer]:
    """Copy a file whole, then read it, yielding chunk after chunk.

    The system copies, so that a file system which can share the blocks of two files does (XFS, Btrfs).
    Raises UserError at the first NaN or infinity.
    """
    try:
        with source.open("rb") as theirs, file.open("wb") as ours:
            while os.copy_file_range(theirs.fileno(), ours.fileno(), COPIED):
                pass
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        shutil.copyfile(source, file)  # not these two file systems, or an old kernel
    with source.open("rb") as stream:
        length = stream.read(8)
        header = length + stream.read(int.from_bytes(length, "little"))
    yield from _contents(header, read_safetensors(source))


def _contents(header: bytes, tensors: Mapping[str, LazyTensor]) -> Iterator[Buffer]:
    """The bytes of a file: the header, then the tensors in order."""
    yield header
    for name, tensor in tensors.items():
        for chunk in finite_chunks(name, tensor):
            yield chunk.view(torch.uint8).numpy().data


def finite_chunks(name: str, lazy: LazyTensor) -> Iterator[Tensor]:
    """The tensor's elements as contiguous 1-D chunks; UserError at the first NaN or infinity."""
    for chunk in _chunks(lazy):
        if lazy.dtype.is_floating_point and lazy.dtype.itemsize > 1 and not is_finite(chunk):
            kind = str(lazy.dtype).removeprefix("torch.")
            raise UserError(f"tensor {name} of {lazy.origin or 'the model'} holds NaN or infinity as {kind}")
        yield chunk


def is_finite(values: Tensor) -> bool:
    """Whether there is no NaN and no infinity; a finite sum is proof, and many times faster than a look at each.

    Sums of float16 soon pass its range; in its own type bfloat16 is summed at 18 GB/s a core, as float32 at 4.
    """
    total = values.sum(dtype=torch.float32 if values.dtype == torch.float16 else None)
    return bool(total.isfinite()) or bool(values.isfinite().all())


def _chunks(lazy: LazyTensor) -> Iterator[Tensor]:
    if lazy.rows is None or not lazy.shape or not lazy.numel:
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
