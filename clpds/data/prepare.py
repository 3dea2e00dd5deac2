"""`clpds data`: tokenise documents with all cores and pack them into blocks.

The text is cut into chunks, each tokenised by itself into a small file of OUT.clpds-work; what is there
after an interruption is not done again. Packing then streams over the chunks in order, so that
the result does not depend on who tokenised them: workers, ranks, or jobs that were given a share.
"""

import json
import os
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from clpds import provenance, recipe
from clpds.data.blocks import FORMAT
from clpds.data.labelled import prepare_labelled
from clpds.data.pack import Counts, count_tokens, write_blocks
from clpds.data.read import check_input, input_bytes, input_files, read_documents
from clpds.data.tokenise import PLAN, SPLITS, open_work, tokenise, unfinished
from clpds.data.unknown import unknown_id, unknown_share, warn_of_unknown
from clpds.errors import UserError
from clpds.folders import mark
from clpds.output import check_disk, human_bytes, remove_marked, write_text
from clpds.sharing import World, claimed_by_first, new_shared_folder, see, shared
from clpds.vocabulary.tokenizer import ends_of, load_tokenizer, rows_needed, save_copy

DISK = 3  # bytes on disk for a byte of text: its copy, the chunks, the blocks twice


def prepare(step: recipe.Data) -> None:
    """Write ``step.out``: train/ and validation/ for `datasets`, tokenizer/, provenance.json.

    Ranks of an MPI launcher share the tokenising. With ``step.only`` just that part is done, with ``step.label_key``
    a text is a block.
    Raises UserError for bad input, for a fraction that leaves a split without documents, and for
    text too short to fill a block.
    """
    work = step.out.parent / f"{step.out.absolute().name}.clpds-work"
    with shared() as world:
        if step.label_key:
            with claimed_by_first(world, step):
                world.on_first(lambda: prepare_labelled(step, _check(step)))
            return
        tokenizers: list[PreTrainedTokenizerBase] = []
        plan = world.on_first(lambda: _ask(step, tokenizers))
        if plan is None:
            return
        with claimed_by_first(world, step, task_of=_digest(plan) if _share(step.only) else None):
            began, todo = world.on_first(lambda: _begin(step, tokenizers[0], work, plan))
            if todo:
                workers = step.workers or world.cores()
                world.agree(lambda: _tokenise(work, todo[world.rank :: world.size], workers))
            if step.only is None:
                counts = world.on_first(lambda: _count(step, work, began))
                _finish(step, work, counts, world)


def _ask(step: recipe.Data, tokenizers: list[PreTrainedTokenizerBase]) -> str | None:
    """The plan of the work, with the opened tokenizer put into ``tokenizers``; None where all is done."""
    _share(step.only)
    if step.only and not step.overwrite and _is_finished(step):
        sys.stdout.write(f"{step.out} is finished: nothing is left to do\n")
        return None
    tokenizers.append(_check(step))
    return json.dumps(_plan(step, tokenizers[0]), indent=2)


def _begin(step: recipe.Data, tokenizer: PreTrainedTokenizerBase, work: Path, plan: str) -> tuple[bool, list[int]]:
    """Lay out the work folder, unless it is; says whether this command made it, and the chunks it is to tokenise."""
    share = _share(step.only)
    if json.dumps(_plan(step, tokenizer), indent=2) != plan:
        raise UserError(f"an input of {step.out} has changed at this moment; run the command again")
    began = not _is_laid_out(work, plan)
    if began and share:
        raise UserError(f"{work} holds no documents of these inputs and parameters; run --only read first")
    if began:
        _lay_out(step, tokenizer, work, plan)
    todo = unfinished(work)
    if step.only == "read":
        sys.stdout.write(f"{work}: {len(todo):,} chunks to tokenise\n")
        return began, []
    return began, [number for number in todo if share is None or number % share[1] == share[0] - 1]


def _digest(plan: str) -> str:
    return xxhash.xxh3_128_hexdigest(plan.encode())


def _share(only: str | None) -> tuple[int, int] | None:
    """K and N of ``--only K/N``."""
    if only in (None, "read"):
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", only)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"only '{only}' is neither read nor K/N with K from 1 to N, such as 3/8")
    return int(match[1]), int(match[2])


def _is_finished(step: recipe.Data) -> bool:
    record = provenance.read(step.out)
    return record is not None and record["parameters"] == provenance.parameters(step)


def _check(step: recipe.Data) -> PreTrainedTokenizerBase:
    """Refuse what can be refused before any work, or work left by an earlier command, is touched."""
    if not 0 <= step.validation_fraction <= 1:
        raise UserError(f"validation_fraction {step.validation_fraction} is not between 0 and 1")
    if step.sequence_length < 2:
        raise UserError(f"sequence_length {step.sequence_length} leaves nothing to predict; give 2 at least")
    if step.workers is not None and step.workers < 1:
        raise UserError(f"workers {step.workers}: give 1 at least")
    for path in step.input:
        check_input(path)
    tokenizer = load_tokenizer(step.tokenizer)
    if not ends_of(tokenizer)[1]:
        raise UserError(
            f"{step.tokenizer} has no token that ends a text; name one as eos_token in its tokenizer_config.json"
        )
    return tokenizer


def _is_laid_out(work: Path, plan: str) -> bool:
    """Whether the same command over the same inputs has laid out the work folder."""
    return (work / PLAN).is_file() and (work / PLAN).read_text(encoding="utf-8") == plan


def _lay_out(step: recipe.Data, tokenizer: PreTrainedTokenizerBase, work: Path, plan: str) -> None:
    if os.path.lexists(work):
        if not mark.is_marked(work, "work", step.out):
            raise UserError(f"{work} was not made by this command, which needs that name; move it away")
        sys.stderr.write(f"{work} cannot be continued (other parameters, other inputs): starting afresh\n")
        remove_marked(work)
    check_disk(step.out, DISK * input_bytes(step.input))
    work.mkdir()
    try:
        mark.put_mark(work, "work", step.out)
        _save_tokenizer(step.tokenizer, tokenizer, work)
        read_documents(step.input, text_key=step.text_key, sample_by=step.sample_by, cache=work)
        write_text(work / PLAN, plan)
    except (UserError, OSError):
        remove_marked(work)
        raise


def _plan(step: recipe.Data, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What the chunks depend on: where all of it is equal, an interrupted command goes on."""
    start, end, padding = ends_of(tokenizer)
    files = [file for path in step.input for file in input_files(path)]
    return {
        "start": start,
        "end": end,
        "padding": padding,
        "unknown": unknown_id(tokenizer.backend_tokenizer),
        "dtype": "uint16" if rows_needed(tokenizer) <= 2**16 else "int32",
        "seed": step.seed,
        "validation_fraction": step.validation_fraction,
        "text_key": step.text_key,
        "sample_by": step.sample_by,
        "tokenizer": xxhash.xxh3_128_hexdigest(tokenizer.backend_tokenizer.to_str().encode()),
        "inputs": [[str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "versions": {package: version(package) for package in ("clpds", "tokenizers")},
    }


def _save_tokenizer(source: Path, tokenizer: PreTrainedTokenizerBase, work: Path) -> None:
    """``tokenizer.json`` for the workers, and the folder ``tokenizer/`` that the output will carry."""
    write_text(work / "tokenizer.json", tokenizer.backend_tokenizer.to_str())
    save_copy(source, tokenizer, work / "tokenizer")


def _tokenise(work: Path, numbers: list[int], workers: int) -> None:
    see([work / PLAN])
    tokenise(work, numbers, workers)


def _count(step: recipe.Data, work: Path, began: bool) -> Counts:
    """What the chunks hold, by split; UserError where that is too little, and the work begun for it is removed."""
    files = open_work(work).files()
    see(files)
    asked = [split for split in SPLITS if step.validation_fraction != {"train": 1, "validation": 0}[split]]
    counts = {split: count_tokens(files, split) for split in asked}
    try:
        _require_enough(step, counts)
    except UserError:
        if began:  # what was there before this command may be the work of other jobs
            remove_marked(work)
        raise
    return counts


def _require_enough(step: recipe.Data, counts: Counts) -> None:
    for split in counts:
        if not counts[split]["documents"]:
            total = sum(count["documents"] for count in counts.values())
            raise UserError(
                f"validation_fraction {step.validation_fraction} leaves none of the {total:,} documents for the "
                f"{split} split; change it, or give 0 (no validation) or 1 (nothing else)"
            )
    if "train" in counts and not step.one_document and counts["train"]["tokens"] < step.sequence_length:
        raise UserError(
            f"the train split has {counts['train']['tokens']:,} tokens, less than one block of "
            f"{step.sequence_length:,}; lower sequence_length or add text"
        )


def _finish(step: recipe.Data, work: Path, counts: Counts, world: World) -> None:
    """Pack all chunks on rank 0 and describe the result."""

    def pack(out: Path) -> None:
        files = open_work(work).files()
        for split in counts:
            counts[split]["blocks"] = write_blocks(
                files, split, step.sequence_length, work, out / split, one_document=step.one_document
            )
        shutil.copytree(work / "tokenizer", out / "tokenizer")

    with new_shared_folder(world, step.out, overwrite=step.overwrite) as out:
        world.on_first(lambda: pack(out))
        inputs = {"tokenizer": step.tokenizer / "tokenizer.json"}
        inputs |= {f"input {number}": path for number, path in enumerate(step.input, 1)}
        provenance.record(out, step, inputs, world=world, format=FORMAT, splits=counts)
    if world.rank == 0:
        remove_marked(work)
        _show(counts, step.sequence_length if step.one_document else None)


def _show(counts: Counts, padded_to: int | None) -> None:
    """The table, and with blocks of ``padded_to`` tokens that have one document each what padding they have."""
    table = Table("split", "documents", "blocks", "tokens", "text", "bytes per token", "unknown")
    for split, count in counts.items():
        numbers = (f"{count[key]:,}" for key in ("documents", "blocks", "tokens"))
        share = unknown_share(count)
        bytes_a_token = f"{count['bytes'] / count['tokens']:.2f}"
        table.add_row(split, *numbers, human_bytes(count["bytes"]), bytes_a_token, f"{share:.2%}")
        warn_of_unknown(share, f"the {split} text", "train a tokenizer on text of this kind, or take a byte-level one")
    Console().print(table)
    if padded_to is not None:
        tokens, blocks = (sum(count[key] for count in counts.values()) for key in ("tokens", "blocks"))
        sys.stdout.write(f"{1 - tokens / (blocks * padded_to):.0%} of the blocks is padding\n")
