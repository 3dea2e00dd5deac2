"""`clpds data`: tokenise documents with all cores and pack them into blocks.

The text is cut into chunks, each tokenised by itself into a small file of OUT.work; what is there
after an interruption is not done again. Packing then streams over the chunks in order, so that
the result does not depend on the number of workers.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import xxhash
from datasets.table import MemoryMappedTable
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from clpds import provenance, recipe
from clpds.checkpoint.write import copy_tokenizer
from clpds.data.blocks import FORMAT
from clpds.data.read import check_input, input_bytes, input_files, read_documents
from clpds.data.tokenise import PLAN, SPLITS, open_work, tokenise
from clpds.errors import UserError
from clpds.output import check_disk, check_free, human_bytes, new_folder, write_text
from clpds.progress import progress
from clpds.vocabulary.tokenizer import load_tokenizer, require_same, rows_needed

DISK = 3  # bytes on disk for a byte of text: its copy, the chunks, the blocks twice
Counts = dict[str, dict[str, int]]


def prepare(step: recipe.Data) -> None:
    """Write ``step.out``: train/ and validation/ for `datasets`, tokenizer/, provenance.json.

    Raises UserError for bad input, for a fraction that leaves a split without documents, and for
    text too short to fill a block.
    """
    tokenizer = _check(step)
    work = step.out.with_name(step.out.name + ".work")
    try:
        _start_or_go_on(step, tokenizer, work)
        tokenise(work, step.workers or len(os.sched_getaffinity(0)))
        with new_folder(step.out, overwrite=step.overwrite) as out:
            counts = _pack_splits(step, work, out)
            shutil.copytree(work / "tokenizer", out / "tokenizer")
            inputs = {"tokenizer": step.tokenizer / "tokenizer.json"}
            inputs |= {f"input {number}": path for number, path in enumerate(step.input, 1)}
            provenance.record(out, step, inputs, format=FORMAT, splits=counts)
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work)
    _show(counts)


def _check(step: recipe.Data) -> PreTrainedTokenizerBase:
    """Refuse what can be refused before any work, or work left by an earlier command, is touched."""
    check_free(step.out, overwrite=step.overwrite)
    if not 0 <= step.validation_fraction <= 1:
        raise UserError(f"validation_fraction {step.validation_fraction} is not between 0 and 1")
    if step.sequence_length < 2:
        raise UserError(f"sequence_length {step.sequence_length} leaves nothing to predict; give 2 at least")
    if step.workers is not None and step.workers < 1:
        raise UserError(f"workers {step.workers}: give 1 at least")
    for path in step.input:
        check_input(path)
    return load_tokenizer(step.tokenizer)


def _start_or_go_on(step: recipe.Data, tokenizer: PreTrainedTokenizerBase, work: Path) -> None:
    """Lay out the work folder; one that was left by the same command over the same inputs is kept."""
    plan = json.dumps(_plan(step, tokenizer), indent=2)
    if work.exists():
        if (work / PLAN).is_file() and (work / PLAN).read_text(encoding="utf-8") == plan:
            return
        sys.stderr.write(f"{work} cannot be continued (other parameters, other inputs): starting afresh\n")
        shutil.rmtree(work)
    check_disk(step.out, DISK * input_bytes(step.input))
    work.mkdir(parents=True)
    _save_tokenizer(step.tokenizer, tokenizer, work)
    read_documents(step.input, text_key=step.text_key, sample_by=step.sample_by, cache=work)
    write_text(work / PLAN, plan)


def _plan(step: recipe.Data, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What the chunks depend on: where all of it is equal, an interrupted command goes on."""
    start = _first_of(tokenizer.bos_token_id, tokenizer.cls_token_id)
    end = _first_of(tokenizer.eos_token_id, tokenizer.sep_token_id)
    files = [file for path in step.input for file in input_files(path)]
    return {
        "start": start,
        "end": end,
        "padding": _first_of(tokenizer.pad_token_id, *end, 0)[0],
        "dtype": "uint16" if rows_needed(tokenizer) <= 2**16 else "int32",
        "seed": step.seed,
        "validation_fraction": step.validation_fraction,
        "text_key": step.text_key,
        "sample_by": step.sample_by,
        "tokenizer": xxhash.xxh3_128_hexdigest(tokenizer.backend_tokenizer.to_str().encode()),
        "inputs": [[str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "versions": {package: version(package) for package in ("clpds", "tokenizers")},
    }


def _first_of(*ids: int | None) -> list[int]:
    return [id for id in ids if id is not None][:1]


def _save_tokenizer(source: Path, tokenizer: PreTrainedTokenizerBase, work: Path) -> None:
    """``tokenizer.json`` for the workers, and the folder ``tokenizer/`` that the output will carry."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(work / "tokenizer.json"))
    copy = work / "tokenizer"
    copy.mkdir()
    copy_tokenizer(source, copy)
    try:
        again = load_tokenizer(copy)
        require_same(tokenizer, again, str(source), str(copy))
        whole = (copy / "tokenizer.json").is_file() and again.special_tokens_map == tokenizer.special_tokens_map
    except UserError:  # a model's config.json said what the files alone do not
        whole = False
    if not whole:
        tokenizer.save_pretrained(copy)


def _pack_splits(step: recipe.Data, work: Path, out: Path) -> Counts:
    files = open_work(work).files()
    counts: Counts = {}
    asked = [split for split in SPLITS if step.validation_fraction != {"train": 1, "validation": 0}[split]]
    for split in asked:
        counts[split] = _count(files, split)
    for split in asked:
        if not counts[split]["documents"]:
            total = sum(count["documents"] for count in counts.values())
            raise UserError(
                f"validation_fraction {step.validation_fraction} leaves none of the {total:,} documents for the "
                f"{split} split; change it, or give 0 (no validation) or 1 (nothing else)"
            )
    if "train" in counts and counts["train"]["tokens"] < step.sequence_length:
        raise UserError(
            f"the train split has {counts['train']['tokens']:,} tokens, less than one block of "
            f"{step.sequence_length:,}; lower sequence_length or add text"
        )
    for split in asked:
        counts[split]["blocks"] = _pack(files, split, step.sequence_length, work, out / split)
    return counts


def _count(files: Iterable[Path], split: str) -> dict[str, int]:
    counts = {"documents": 0, "tokens": 0, "bytes": 0}
    for file in files:
        with np.load(file) as chunk:
            counts["documents"] += len(chunk[f"{split}_lengths"])
            counts["tokens"] += int(chunk[f"{split}_lengths"].sum(dtype=np.int64))
            counts["bytes"] += int(chunk[f"{split}_bytes"].sum(dtype=np.int64))
    return counts


def _pack(files: list[Path], split: str, length: int, work: Path, out: Path) -> int:
    """Write the split's blocks for `datasets`; returns how many."""
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
        for columns in pack(_chunks(files, split, advance), length, plan["padding"], keep_rest=split != "train"):
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


Chunk = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids and bytes of all tokens, lengths of the documents
Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


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


def _cut(ids: np.ndarray, sizes: np.ndarray, ends: np.ndarray, length: int) -> Columns:
    starts = np.concatenate(([0], ends[:-1]))
    sizes = sizes.astype(np.int64)
    sizes[starts] = 0  # no token before it in its document and block: not predicted
    block = (ends - 1) // length
    offsets = np.searchsorted(block, np.arange(len(ids) // length + 1))
    return ids.reshape(-1, length), offsets, ends - block * length, sizes.reshape(-1, length).sum(axis=1)


def _show(counts: Counts) -> None:
    table = Table("split", "documents", "blocks", "tokens", "text", "bytes per token")
    for split, count in counts.items():
        numbers = (f"{count[key]:,}" for key in ("documents", "blocks", "tokens"))
        table.add_row(split, *numbers, human_bytes(count["bytes"]), f"{count['bytes'] / count['tokens']:.2f}")
    Console().print(table)
