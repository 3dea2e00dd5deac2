"""Pack tokenised chunks into blocks of equal length, and write them for `datasets`; chunk after chunk."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import xxhash
from datasets.table import MemoryMappedTable

from clpds.data.blocks import FORMAT
from clpds.data.tokenise import PLAN
from clpds.progress import progress

Counts = dict[str, dict[str, int]]
Chunk = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids and bytes of all tokens, lengths of the documents
Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
AT_ONCE = 4096  # blocks of one document that are in memory


def count_tokens(files: Iterable[Path], split: str) -> dict[str, int]:
    """Documents, tokens and bytes of text of a split in these chunks, and how many of these bytes are unknown."""
    counts = {"documents": 0, "tokens": 0, "bytes": 0, "unknown_bytes": 0}
    for file in files:
        with np.load(file) as chunk:
            counts["documents"] += len(chunk[f"{split}_lengths"])
            counts["tokens"] += int(chunk[f"{split}_lengths"].sum(dtype=np.int64))
            counts["bytes"] += int(chunk[f"{split}_bytes"].sum(dtype=np.int64))
            counts["unknown_bytes"] += int(chunk[f"{split}_unknown"].sum(dtype=np.int64))
    return counts


def write_blocks(
    files: list[Path], split: str, length: int, work: Path, out: Path, *, one_document: bool = False
) -> int:
    """Write the split's blocks for `datasets`, packed or with ``one_document`` each; returns how many."""
    plan = json.loads((work / PLAN).read_text(encoding="utf-8"))
    features = datasets.Features(
        input_ids=datasets.List(datasets.Value(plan["dtype"]), length=length),
        ends=datasets.List(datasets.Value("int32")),
        predicted_bytes=datasets.Value("int64"),
    )
    temporary = work / f"{split}.arrow"
    digest = xxhash.xxh3_128(json.dumps([FORMAT, length, plan["dtype"]]).encode())
    with (
        progress(f"packing {split} (chunks)", len(files)) as advance,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, features.arrow_schema) as writer,
    ):
        chunks = _chunks(files, split, advance)
        if one_document:
            blocks = unpacked(chunks, length, plan["padding"])
        else:
            blocks = pack(chunks, length, plan["padding"], keep_rest=split != "train")
        for columns in blocks:
            ids, offsets, ends, predicted = columns
            for column in columns:
                digest.update(np.ascontiguousarray(column).data)
            arrays = [
                pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1).astype(plan["dtype"])), length),
                pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ends, pa.int32())),
                pa.array(predicted, pa.int64()),
            ]
            writer.write_batch(pa.record_batch(arrays, schema=features.arrow_schema))
    table = MemoryMappedTable.from_file(str(temporary))
    dataset = datasets.Dataset(table, split=datasets.NamedSplit(split), fingerprint=digest.hexdigest())
    dataset.save_to_disk(str(out))
    temporary.unlink()
    return len(dataset)


def _chunks(files: Iterable[Path], split: str, advance: Any) -> Iterator[Chunk]:
    for file in files:
        with np.load(file) as chunk:
            yield chunk[f"{split}_ids"], chunk[f"{split}_bytes"], chunk[f"{split}_lengths"]
        advance(1)


def pack(chunks: Iterable[Chunk], length: int, padding: int, *, keep_rest: bool) -> Iterator[Columns]:
    """Concatenate documents and cut them into blocks of ``length`` tokens, some blocks at a time.

    Yields ids (n, length); the ends of the documents in each block, ascending and flat, with
    their offsets (n + 1); bytes that each block's predicted tokens stand for (n). The last block, unless
    full, is dropped, or with ``keep_rest`` filled with ``padding``, which no end covers.
    """
    ids, sizes, ends = (np.empty(0, np.int64) for _ in range(3))
    for more_ids, more_sizes, lengths in chunks:
        ends = np.concatenate((ends, len(ids) + np.cumsum(lengths, dtype=np.int64)))
        ids, sizes = np.concatenate((ids, more_ids)), np.concatenate((sizes, more_sizes))
        full = len(ids) // length * length
        if full:
            block_ends = np.arange(length, full + 1, length)
            yield _cut(ids[:full], sizes[:full], np.union1d(ends[ends < full], block_ends), length)
            ids, sizes, ends = ids[full:], sizes[full:], ends[ends > full] - full
    if keep_rest and len(ids):
        rest = length - len(ids)
        ids = np.pad(ids, (0, rest), constant_values=padding)
        yield _cut(ids, np.pad(sizes, (0, rest)), ends, length)


def unpacked(chunks: Iterable[Chunk], length: int, padding: int) -> Iterator[Columns]:
    """Cut each document into blocks of ``length`` tokens, the last filled with ``padding``; columns as ``pack`` has."""
    for ids, sizes, lengths in chunks:
        pieces = -(-lengths.astype(np.int64) // length)
        widths = np.full(pieces.sum(), length, np.int64)
        widths[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * length
        stops = np.cumsum(widths)
        for first in range(0, len(widths), AT_ONCE):
            width = widths[first : first + AT_ONCE]
            start, stop = stops[first] - widths[first], stops[first + len(width) - 1]
            held = np.arange(length) < width[:, None]
            block, size = np.full(held.shape, padding, np.int64), np.zeros(held.shape, np.int64)
            block[held], size[held] = ids[start:stop], sizes[start:stop]
            yield block, np.arange(len(width) + 1), width, size[:, 1:].sum(axis=1)


def _cut(ids: np.ndarray, sizes: np.ndarray, ends: np.ndarray, length: int) -> Columns:
    starts = np.concatenate(([0], ends[:-1]))
    sizes = sizes.astype(np.int64)
    sizes[starts] = 0  # no token before it in its document and block: not predicted
    block = (ends - 1) // length
    offsets = np.searchsorted(block, np.arange(len(ids) // length + 1))
    return ids.reshape(-1, length), offsets, ends - block * length, sizes.reshape(-1, length).sum(axis=1)
