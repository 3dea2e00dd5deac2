"""Tokenise a chunk of documents into a file, wherever the process runs.

A work folder holds all that is needed: ``documents.arrow`` (a record batch is a chunk),
``tokenizer.json`` and ``plan.json``. Nothing heavy is imported, so that a worker starts at once.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from tokenizers import Tokenizer

from clpds.errors import UserError
from clpds.output import naming
from clpds.progress import progress
from clpds.vocabulary.marker import markers_only
from clpds.vocabulary.panics import no_panic

SPLITS = ("train", "validation")
WHAT = ("ids", "bytes", "lengths", "unknown")
PLAN = "plan.json"
AT_ONCE = 256  # documents handed to the tokenizer together
_work: "Work"  # of a worker process


@dataclass(frozen=True)
class Work:
    """An open work folder."""

    folder: Path
    documents: pa.ChunkedArray
    """Strings, memory-mapped."""
    tokenizer: Tokenizer
    spelled: np.ndarray | None
    """``spelled_bytes`` of the tokenizer."""
    markers: np.ndarray
    """``markers_only`` of the tokenizer."""
    plan: dict[str, Any]
    """``start`` and ``end``: ids put round a document; ``unknown``: the id of what the tokenizer does not know, or
    None; ``dtype`` of ids; ``seed``; ``validation_fraction``."""

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
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Work(folder, table.column("text"), tokenizer, spelled_bytes(tokenizer), markers_only(tokenizer), plan)


def unfinished(folder: Path) -> list[int]:
    """The chunks of the work folder that are still to be tokenised."""
    there = set(folder.iterdir())  # one question to the disk, not one a chunk
    return [number for number, file in enumerate(open_work(folder).files()) if file not in there]


def tokenise(folder: Path, numbers: Sequence[int], workers: int) -> None:
    """Tokenise these chunks of the work folder, with so many processes.

    Raises UserError where one of them is killed, and where the tokenizer gives up.
    """
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
        except (BrokenProcessPool, EOFError, ConnectionError) as error:  # the latter of the forkserver
            raise UserError(
                f"a worker that tokenises {folder} was killed, probably because memory was short: give fewer --workers "
                "or more memory; the same command goes on from the chunks that are done"
            ) from error
        finally:
            executor.shutdown(cancel_futures=True)


def tokenise_chunk(work: Work, number: int) -> None:
    """Write chunk ``number``, atomically: for each split the ids of its documents, and what they stand for.

    Arrays ``SPLIT_ids`` and ``SPLIT_bytes`` (all tokens of all documents), ``SPLIT_lengths`` (tokens
    of each document) and ``SPLIT_unknown`` (bytes of it that are unknown). A document that the tokenizer finds
    nothing in is left out.
    """
    plan = work.plan
    start, end = np.array(plan["start"], plan["dtype"]), np.array(plan["end"], plan["dtype"])
    arrays: dict[str, list[np.ndarray]] = {f"{split}_{what}": [] for split in SPLITS for what in WHAT}
    for raw, ids, sizes in _encoded(work, work.documents.chunk(number).to_pylist()):
        split = "validation" if is_held_out(raw, plan["seed"], plan["validation_fraction"]) else "train"
        arrays[f"{split}_ids"] += [start, ids, end]
        arrays[f"{split}_bytes"] += [np.zeros_like(start), sizes, np.zeros_like(end)]
        arrays[f"{split}_lengths"].append(np.array([len(start) + len(ids) + len(end)]))
        unknown = 0 if plan["unknown"] is None else sizes[ids == plan["unknown"]].sum()
        arrays[f"{split}_unknown"].append(np.array([unknown]))
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


def _encoded(work: Work, texts: list[str]) -> Iterator[tuple[bytes, np.ndarray, np.ndarray]]:
    """UTF-8, ids and bytes a token of each document that the tokenizer finds something in.

    Following the offsets of tokens costs the library two thirds more time, and turning them into numbers a fifth.
    """
    plain = partial(work.tokenizer.encode_batch, add_special_tokens=False)
    encode = plain if work.spelled is None else partial(work.tokenizer.encode_batch_fast, add_special_tokens=False)
    for first in range(0, len(texts), AT_ONCE):
        some = texts[first : first + AT_ONCE]
        with no_panic(work.folder / "tokenizer.json"):
            encodings = encode(some)
        for text, encoding in zip(some, encodings, strict=True):
            raw, ids = text.encode(), np.array(encoding.ids, work.plan["dtype"])
            if not len(ids):
                continue
            sizes = None if work.spelled is None else work.spelled[ids]
            if sizes is None or sizes.sum() != len(raw):
                offsets = encoding.offsets if sizes is None else plain([text])[0].offsets
                sizes = token_bytes(raw, offsets, work.markers[ids])
            yield raw, ids, sizes


def spelled_bytes(tokenizer: Tokenizer) -> np.ndarray | None:
    """The bytes of text that each token stands for wherever it occurs, by id; None unless tokens are byte-level.

    A byte-level alphabet (GPT-2, Llama 3) has one character a byte, and added tokens are spelt as they are. Of a text
    in which the tokenizer drops or adds something, the sum is not the text's length.
    """
    pipeline = json.loads(tokenizer.to_str())
    parts = pipeline["pre_tokenizer"] or {}
    parts = parts.get("pretokenizers", [parts])
    if pipeline["normalizer"] is not None or pipeline["model"]["type"] != "BPE":
        return None
    if not any(part.get("type") == "ByteLevel" and not part["add_prefix_space"] for part in parts):
        return None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = {token["content"] for token in pipeline["added_tokens"]}
    spelled = np.zeros(max(vocabulary.values(), default=-1) + 1, np.int64)
    for token, id_ in vocabulary.items():
        spelled[id_] = len(token.encode()) if token in added else len(token)
    return spelled


def token_bytes(raw: bytes, offsets: list[tuple[int, int]], markers: np.ndarray) -> np.ndarray:
    """How many bytes of the UTF-8 text ``raw`` each token stands for, int64; they add up to ``len(raw)``.

    ``offsets`` are the tokens' first and last character + 1. A token stands for the bytes between
    the furthest end before it and its own: of several tokens inside one character the first stands for
    it, spaces that a tokenizer drops count for the token after them, at the end of the text for the last.
    ``markers`` (as many, bool) are true for tokens that are only a marker for spaces: one that the text has no
    space for, put before its first word, has the offsets of the letter behind it and stands for none of that.
    """
    starts = np.append(np.flatnonzero(np.frombuffer(raw, np.uint8) & 0xC0 != 0x80), len(raw))
    spans = np.array(offsets)
    for place in np.flatnonzero(markers):
        first = spans[place, 0]
        if first < len(starts) - 1 and not raw[starts[first] : starts[first + 1]].decode().isspace():
            spans[place, 1] = first
    ends = starts[spans[:, 1]]
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
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a core a worker: more threads would fight for them
    _work = open_work(folder)


def _follow_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _tokenise_in_worker(number: int) -> int:
    tokenise_chunk(_work, number)
    return number
