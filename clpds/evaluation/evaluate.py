"""`clpds eval`: a model's loss, perplexity and bits per byte on held-out text."""

import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clpds import provenance, recipe
from clpds.checkpoint import Checkpoint, anatomy
from clpds.data.blocks import Blocks, open_blocks
from clpds.data.prepare import prepare
from clpds.data.unknown import unknown_share, warn_of_unknown
from clpds.errors import UserError
from clpds.evaluation.accuracy import measure_task, show_task
from clpds.evaluation.model import is_masked, load_model, open_model, tokenizer_folder
from clpds.evaluation.perplexity import score
from clpds.folders.inputs import inputs_of, require_unchanged, stamp
from clpds.folders.ours import MADE_BY
from clpds.models.encoder import longest
from clpds.objectives.masked import Masked
from clpds.output import makes_file, write_file
from clpds.recipe import Train
from clpds.vocabulary.tokenizer import backend, load_tokenizer, require_same, token_ids

LONGEST = 1024  # tokens in a window of raw text, unless told


@makes_file
def evaluate(step: recipe.Eval) -> None:
    """Score ``step.model`` on ``step.data``; a table or JSON on stdout, and JSON to ``step.out``.

    Raises UserError for a model that does not fit its tokenizer, data of another tokenizer, and a loss
    that is not finite.
    """
    read = stamp(inputs_of(step))
    checkpoint = open_model(step.model)
    numbers = measure_task(step, checkpoint) if step.task else measure(step, checkpoint)
    require_unchanged(read)
    numbers[MADE_BY] = "clpds eval"
    text = json.dumps(numbers, indent=2, ensure_ascii=False) + "\n"
    if step.json:
        sys.stdout.write(text)
    else:
        (show_task if step.task else _show)(numbers)
    if step.out is not None:  # last: a full disk does not cost the numbers
        sys.stdout.flush()
        write_file(step.out, text.encode(), overwrite=step.overwrite)


def measure(step: recipe.Eval, checkpoint: Checkpoint) -> dict[str, Any]:
    """What `clpds eval --json` prints of ``checkpoint``, which need not have been written to ``step.model``."""
    found = anatomy(checkpoint.config)
    if not found.has_head:
        kind = found.model_class.__name__
        raise UserError(f"{step.model} is a {kind}, which has no head that predicts tokens; see --task for classifiers")
    tokenizer = tokenizer_folder(checkpoint)
    with _data(step, checkpoint, tokenizer) as folder:
        blocks = open_blocks(folder, "validation")
        _check_length(step, checkpoint, blocks)
        count = min(len(blocks), step.blocks or len(blocks))
        masked = (
            Masked.of(load_tokenizer(tokenizer), Train.mask_share, str(tokenizer)) if is_masked(checkpoint) else None
        )
        model = load_model(checkpoint)
        result = score(model, blocks, count=count, micro_batch=step.micro_batch, masked=masked, seed=step.seed)
        share = unknown_share((provenance.read(folder) or {})["splits"]["validation"])
        if folder == step.data:  # of raw text `data` has said it
            warn_of_unknown(share, str(step.data), "bits per byte flatter a model that need not predict it")
        return {
            "model": str(step.model),
            "data": str(step.data),
            "objective": "masked" if masked else "causal",
            "loss": result.loss,
            "perplexity": result.perplexity,
            "bits_per_byte": result.bits_per_byte,
            "tokens": result.tokens,
            "bytes": result.bytes,
            "unknown_share": share,
            "blocks": count,
            "sequence_length": blocks.sequence_length,
            "tokenizer": (tokenizer_hash := _tokenizer_hash(tokenizer)),
            "text": _text_hash(folder, [step.blocks, blocks.sequence_length, tokenizer_hash] if step.blocks else []),
        }


@contextmanager
def _data(step: recipe.Eval, checkpoint: Checkpoint, tokenizer: Path) -> Iterator[Path]:
    """The prepared data folder: the given one, or a temporary one made from raw text."""
    record = provenance.read(step.data) if step.data.is_dir() else None
    if record is not None and record.get("verb") == "data":
        if step.sequence_length is not None:
            raise UserError(f"{step.data} is packed already; sequence_length is for raw text")
        packed_with = load_tokenizer(step.data / "tokenizer")
        require_same(load_tokenizer(tokenizer), packed_with, str(step.model), str(step.data))
        yield step.data
        return
    length = step.sequence_length or min(longest(anatomy(checkpoint.config).model) or LONGEST, LONGEST)
    with tempfile.TemporaryDirectory(prefix="clpds-eval-") as folder, redirect_stdout(io.StringIO()):
        out = Path(folder) / "data"
        prepare(
            recipe.Data(
                input=(step.data,), tokenizer=tokenizer, sequence_length=length, out=out,
                text_key=step.text_key, validation_fraction=1,
            )
        )  # fmt: skip
        yield out


def _check_length(step: recipe.Eval, checkpoint: Checkpoint, blocks: Blocks) -> None:
    limit = longest(anatomy(checkpoint.config).model)
    if limit is not None and blocks.sequence_length > limit:
        raise UserError(
            f"{step.data}: blocks of {blocks.sequence_length} tokens, but {step.model} has {limit} positions"
        )


def _tokenizer_hash(folder: Path) -> str:
    """Equal for tokenizers that give every text the same ids."""
    tokenizer = load_tokenizer(folder)
    return _hash([token_ids(tokenizer), backend(tokenizer)])


def _text_hash(folder: Path, limit: list[Any]) -> str:
    """Equal for the same held-out text, whatever tokenizer it was packed with."""
    record = provenance.read(folder) or {}
    inputs = {role: entry.get("sha256", entry.get("files")) for role, entry in record["inputs"].items()}
    inputs.pop("tokenizer")
    chosen = [record["parameters"][key] for key in ("text_key", "sample_by", "validation_fraction", "seed")]
    return _hash([inputs, chosen, limit])


def _hash(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _show(numbers: dict[str, Any]) -> None:
    tokens, size = numbers["tokens"], numbers["bytes"]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_row("model", numbers["model"])
    table.add_row("data", numbers["data"])
    table.add_row("loss", f"{numbers['loss']:.4f} nats a token")
    table.add_row("perplexity", f"{numbers['perplexity']:,.2f}")
    where = f"in {numbers['blocks']:,} blocks of {numbers['sequence_length']:,}"
    table.add_row("tokens", f"{tokens:,} predicted, {where}")
    if size is not None:
        table.add_row("bits per byte", f"{numbers['bits_per_byte']:.4f}")
        table.add_row("bytes", f"{size:,}, {size / tokens:.2f} a token")
    if numbers["unknown_share"] is not None:
        table.add_row("unknown", f"{numbers['unknown_share']:.2%} of the text, by bytes")
    Console(highlight=False, markup=False).print(table)
