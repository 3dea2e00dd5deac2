"""Tokenise a chunk of documents into a file, wherever the process runs.

A work folder holds all that is needed: ``documents.arrow`` (a record batch is a chunk),
``tokenizer.json`` and ``plan.json``. Nothing heavy is imported, so that a worker starts at once.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from tokenizers import Tokenizer

from clpds.output import naming
from clpds.progress import progress

SPLITS = ("train", "validation")
WHAT = ("ids", "bytes", "lengths")
PLAN = "plan.json"
_work: "Work"  # of a worker process


@dataclass(frozen=True)
class Work:
    """An open work folder."""

    folder: Path
    documents: pa.ChunkedArray
    """Strings, memory-mapped."""
    tokenizer: Tokenizer
    plan: dict[str, Any]
    """``start`` and ``end``: ids put round a document; ``dtype`` of ids; ``seed``; ``validation_fraction``."""

    def file(self, number: int) -> Path:
        """Where chunk ``number`` lies when it is finished."""
        return self.folder / f"chunk-{number:06d}.npz"

    def files(self) -> list[Path]:
        """Those of all chunks, in the order of the documents."""
        return [self.file(number) for number in range(self.documents.num_chunks)]


def open_work(folder: Path) -> Work:
    """Open a folder that `clpds data` laid out."""
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    table = pa.ipc.open_stream(pa.memory_map(str(folder / "documents.arrow"))).read_all()
    return Work(folder, table.column("text"), Tokenizer.from_file(str(folder / "tokenizer.json")), plan)


def unfinished(folder: Path) -> list[int]:
    """The chunks of the work folder that are still to be tokenised."""
    there = set(folder.iterdir())  # one question to the disk, not one a chunk
    return [number for number, file in enumerate(open_work(folder).files()) if file not in there]


def tokenise(folder: Path, numbers: Sequence[int], workers: int) -> None:
    """Tokenise these chunks of the work folder, with so many processes."""
    work = open_work(folder)
    megabytes = {number: pc.sum(pc.binary_length(work.documents.chunk(number))).as_py() / 10**6 for number in numbers}
    with progress("tokenising (MB)", int(sum(megabytes.values()))) as advance:
        if min(workers, len(numbers)) <= 1:
            for number in numbers:
                tokenise_chunk(work, number)
                advance(megabytes[number])
            return
        context = multiprocessing.get_context("forkserver")
        executor = ProcessPoolExecutor(min(workers, len(numbers)), context, _start_worker, (folder,))
        try:
            for number in executor.map(_tokenise_in_worker, numbers):
                advance(megabytes[number])
        finally:
            executor.shutdown(cancel_futures=True)


def tokenise_chunk(work: Work, number: int) -> None:
    """Write chunk ``number``, atomically: for each split the ids of its documents, and what they stand for.

    Arrays ``SPLIT_ids`` and ``SPLIT_bytes`` (all tokens of all documents), ``SPLIT_lengths`` (tokens
    of each document). A document that the tokenizer finds nothing in is left out.
    """
    plan = work.plan
    start, end = np.array(plan["start"], plan["dtype"]), np.array(plan["end"], plan["dtype"])
    arrays: dict[str, list[np.ndarray]] = {f"{split}_{what}": [] for split in SPLITS for what in WHAT}
    for text in work.documents.chunk(number).to_pylist():
        encoding = work.tokenizer.encode(text, add_special_tokens=False)
        if not encoding.ids:
            continue
        raw = text.encode()
        split = "validation" if is_held_out(raw, plan["seed"], plan["validation_fraction"]) else "train"
        ids = np.concatenate((start, np.array(encoding.ids, plan["dtype"]), end))
        arrays[f"{split}_ids"].append(ids)
        arrays[f"{split}_bytes"].append(np.pad(token_bytes(raw, encoding.offsets), (len(start), len(end))))
        arrays[f"{split}_lengths"].append(np.array([len(ids)]))
    joined: dict[str, Any] = {
        key: _narrow(np.concatenate(parts or [np.empty(0, np.int64)])) for key, parts in arrays.items()
    }
    # A name of its own: another job may be at the same chunk, with the same bytes.
    partial = work.folder / f"{uuid4().hex}.partial"
    with naming(partial), partial.open("xb") as stream:
        np.savez(stream, **joined)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(work.file(number))


def token_bytes(raw: bytes, offsets: list[tuple[int, int]]) -> np.ndarray:
    """How many bytes of the UTF-8 text ``raw`` each token stands for, int64; they add up to ``len(raw)``.

    ``offsets`` are the tokens' first and last character + 1. A token stands for the bytes between
    the furthest end before it and its own: of several tokens inside one character the first stands for
    it, spaces that a tokenizer drops count for the token after them, at the end of the text for the last.
    """
    starts = np.append(np.flatnonzero(np.frombuffer(raw, np.uint8) & 0xC0 != 0x80), len(raw))
    ends = starts[np.array(offsets)[:, 1]]
    ends[-1] = len(raw)
    return np.diff(np.maximum.accumulate(ends), prepend=0)


def is_held_out(raw: bytes, seed: int, fraction: float) -> bool:
    """Whether a document belongs to the validation split: a pure function of its text."""
    return (xxhash.xxh3_64_intdigest(b"%d\n%b" % (seed, raw)) >> 11) / 2**53 < fraction


def _narrow(array: np.ndarray) -> np.ndarray:
    """The same numbers in the smallest unsigned type."""
    return array.astype(np.min_scalar_type(int(array.max(initial=0))))


def _start_worker(folder: Path) -> None:
    """Open the folder; leave Ctrl-C to the parent, and do not outlive it."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    _work = open_work(folder)


def _follow_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _tokenise_in_worker(number: int) -> int:
    tokenise_chunk(_work, number)
    return number
