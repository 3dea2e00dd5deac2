"""`clpds pairs`: parallel text to pairs of token sequences, each target token with the source place it starts from."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import datasets
import pyarrow as pa
import xxhash
from datasets.table import MemoryMappedTable
from transformers import PreTrainedTokenizerBase

from clpds import provenance, recipe
from clpds.data.links import Link, align_words, carry, read_links
from clpds.data.pairs import FORMAT
from clpds.data.tokenise import SPLITS, is_held_out
from clpds.errors import UserError
from clpds.output import makes_folder, new_folder
from clpds.progress import progress
from clpds.vocabulary.dictionary import Pair, read_parallel
from clpds.vocabulary.panics import no_panic
from clpds.vocabulary.tokenizer import ends_of, load_tokenizer, rows_needed, save_copy
from clpds.vocabulary.words import spans, words

AT_ONCE = 1000  # pairs in a record batch
T = TypeVar("T")
COLUMNS = "source", "target", "alignment"
Row = tuple[list[int], list[int], list[int]]
"""Ids of the source with the dummy behind it, ids of the target, and for each of these a place in the source."""


@makes_folder
def prepare_pairs(step: recipe.Pairs) -> None:
    """Write ``step.out``: train/ and validation/ for `datasets`, tokenizer/, provenance.json.

    Raises UserError for bad input, for alignments that belong to other sentences, and where no pair is left.
    """
    if not 0 <= step.validation_fraction < 1:
        raise UserError(f"validation_fraction {step.validation_fraction} is not in [0, 1)")
    if step.alignments is not None and not step.alignments.is_file():
        raise UserError(f"{step.alignments} does not exist")
    tokenizer = load_tokenizer(step.tokenizer)
    frame = _frame(tokenizer, step.tokenizer)
    sentences = list(read_parallel(step.parallel))
    held_out = [is_held_out(first.encode(), step.seed, step.validation_fraction) for first, _ in sentences]
    if step.reverse:
        sentences = [_turned(pair) for pair in sentences]
    links = iter(_links(step, sentences))
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    with new_folder(step.out, overwrite=step.overwrite) as out:
        with progress("writing pairs", len(sentences)) as advance:
            rows = _rows(step, tokenizer, frame, sentences, links, advance)
            _write(zip(held_out, rows, strict=True), out, rows_needed(tokenizer), counts)
        if not counts["train"]["pairs"]:
            raise UserError(
                f"none of the {len(sentences):,} pairs is left to train on: {_left_out(counts['train'])}; "
                "raise sequence_length or look at the files"
            )
        save_copy(step.tokenizer, tokenizer, out / "tokenizer")
        inputs = {"tokenizer": step.tokenizer / "tokenizer.json", "alignments": step.alignments}
        inputs |= {f"parallel {number}": path for number, path in enumerate(step.parallel, 1)}
        splits = {split: dict(count) for split, count in counts.items() if count["pairs"]}
        provenance.record(out, step, inputs, format=FORMAT, sequence_length=step.sequence_length, splits=splits)
    for split, count in splits.items():
        unaligned = count["unaligned"] / count["target_tokens"]
        sys.stdout.write(f"{split}: {count['pairs']:,} pairs, {unaligned:.1%} of the target's tokens unaligned\n")
    sys.stdout.write(f"left out: {_left_out(counts['train'])}\n")


def _frame(tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[int, int, int]:
    """Ids that open and close a sentence, and the padding's."""
    start, end, _ = ends_of(tokenizer)
    if not start or not end or tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer of {folder} lacks a token that opens or closes a sentence, or one for padding")
    return start[0], end[0], tokenizer.pad_token_id


def _links(step: recipe.Pairs, sentences: Sequence[Pair]) -> Iterable[list[Link]]:
    """For each of ``sentences``, which are in the order that they are read and written in."""
    if step.alignments is None:
        return align_words([(words(source), words(target)) for source, target in sentences])
    found = list(read_links(step.alignments))
    if len(found) != len(sentences):
        raise UserError(f"{step.alignments} has {len(found):,} lines for {len(sentences):,} pairs of sentences")
    if step.reverse:
        found = [[_turned(link) for link in line] for line in found]
    for number, (links, pair) in enumerate(zip(found, sentences, strict=True), 1):
        sizes = [len(spans(text, written=True)) for text in pair]
        if any(source >= sizes[0] or target >= sizes[1] for source, target in links):
            raise UserError(
                f"{step.alignments}, line {number}: a link goes beyond the sentences, which have {sizes[step.reverse]} "
                f"and {sizes[not step.reverse]} words, cut at white space; was another text aligned?"
            )
    return found


def _turned(pair: tuple[T, T]) -> tuple[T, T]:
    return pair[1], pair[0]


def _rows(
    step: recipe.Pairs,
    tokenizer: PreTrainedTokenizerBase,
    frame: tuple[int, int, int],
    sentences: Sequence[Pair],
    links: Iterator[list[Link]],
    advance: Any,
) -> Iterator[Row | str]:
    """A row for each pair, or why it is left out."""
    start, end, padding = frame
    backend = tokenizer.backend_tokenizer
    for first in range(0, len(sentences), AT_ONCE):
        part = sentences[first : first + AT_ONCE]
        with no_panic(tokenizer.name_or_path):
            encodings = [backend.encode_batch(list(side), add_special_tokens=False) for side in zip(*part, strict=True)]
        for pair, source, target, line in zip(part, *encodings, islice(links, len(part)), strict=True):
            cut = [spans(text, written=step.alignments is not None) for text in pair]
            places = carry(line, (cut[0], cut[1]), (source.offsets, target.offsets))
            dummy = len(source.ids) + 2
            if not source.ids or not target.ids:
                yield "empty"
            elif max(dummy + 1, len(target.ids) + 2) > step.sequence_length:
                yield "too_long"
            else:
                aligned = [place + 1 if place < len(source.ids) else dummy for place in places]
                yield (
                    [start, *source.ids, end, padding],
                    [start, *target.ids, end],
                    [0, *aligned, dummy - 1],
                )
        advance(len(part))


def _write(rows: Iterable[tuple[bool, Row | str]], out: Path, vocabulary: int, counts: dict[str, Counter[str]]) -> None:
    """Write the splits that have pairs, and count; what is left out counts for train."""
    kind = "uint16" if vocabulary <= 2**16 else "int32"
    features = datasets.Features({name: datasets.List(datasets.Value(kind)) for name in COLUMNS})
    digests = {split: xxhash.xxh3_128(json.dumps([FORMAT, kind]).encode()) for split in SPLITS}
    with ExitStack() as stack:
        writers = {}
        for split in SPLITS:
            sink = stack.enter_context(pa.OSFile(str(out / f"{split}.arrow"), "wb"))
            writers[split] = stack.enter_context(pa.ipc.new_stream(sink, features.arrow_schema))
        waiting: dict[str, list[Row]] = {split: [] for split in SPLITS}

        def flush(split: str) -> None:
            batch = [
                pa.array([row[place] for row in waiting[split]], features.arrow_schema.types[place])
                for place in range(3)
            ]
            for column in batch:
                digests[split].update(column.offsets.to_numpy().data)
                digests[split].update(column.values.to_numpy().data)
            writers[split].write_batch(pa.record_batch(batch, schema=features.arrow_schema))
            waiting[split].clear()

        for held_out, row in rows:
            if isinstance(row, str):
                counts["train"][row] += 1
                continue
            split = SPLITS[held_out]
            source, target, alignment = row
            counts[split].update(pairs=1, source_tokens=len(source) - 1, target_tokens=len(target))
            counts[split]["unaligned"] += alignment.count(len(source) - 1)
            waiting[split].append(row)
            if len(waiting[split]) == AT_ONCE:
                flush(split)
        for split in SPLITS:
            if waiting[split]:
                flush(split)
    for split in SPLITS:
        file = out / f"{split}.arrow"
        if counts[split]["pairs"]:
            table = MemoryMappedTable.from_file(str(file))
            dataset = datasets.Dataset(table, split=datasets.NamedSplit(split), fingerprint=digests[split].hexdigest())
            dataset.save_to_disk(str(out / split))
        file.unlink()


def _left_out(count: Counter[str]) -> str:
    return f"{count['empty']:,} with an empty side, {count['too_long']:,} too long"
