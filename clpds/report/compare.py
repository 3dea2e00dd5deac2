"""`clpds report`: evaluations side by side on the screen and in one picture, or training runs in a page."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clpds import recipe
from clpds.bounds import RECORD
from clpds.errors import UserError
from clpds.inside import read_json
from clpds.output import makes_file
from clpds.report.curves import Curves, draw, read_curves
from clpds.report.runs import report_runs

FIELDS = {"loss": float, "perplexity": float, "bits_per_byte": float, "tokenizer": str, "text": str}


@dataclass(frozen=True)
class Evaluation:
    """What `clpds eval --out` wrote, as far as it is shown."""

    label: str
    loss: float
    perplexity: float
    bits_per_byte: float
    tokenizer: str
    """Hash: equal for equal tokenizers."""
    text: str
    """Hash: equal for equal held-out text."""


@makes_file
def report(step: recipe.Report) -> None:
    """Print the table and write the picture or page ``step.out``; UserError where an input cannot be read."""
    if step.runs:
        report_runs(step)
        return
    evaluations = [read_evaluation(label, path) for label, path in step.evals.items()]
    curves: Curves | None = read_curves(step.run) if step.run is not None else None
    print_table(step.title, evaluations)
    draw(step.out, step.title, {e.label: e.bits_per_byte for e in evaluations}, curves, overwrite=step.overwrite)
    sys.stdout.write(f"picture: {step.out}\n")


def read_evaluation(label: str, path: Path) -> Evaluation:
    """One JSON file of `clpds eval`."""
    try:
        document: dict[str, Any] = read_json(path, RECORD)
        if document.get("objective") == "masked":
            raise UserError(f"{path} ({label}) is of a masked language model, which has no bits per byte to compare")
        values: dict[str, Any] = {name: kind(document[name]) for name, kind in FIELDS.items()}
        if not all(math.isfinite(value) for value in values.values() if isinstance(value, float)):
            raise ValueError("a number is not finite")
        return Evaluation(label, **values)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} ({label}) was not written by `clpds eval --out`: {error!r}") from error


def print_table(title: str, evaluations: list[Evaluation]) -> None:
    """A row a label; perplexity only where one tokenizer makes it comparable."""
    one_tokenizer = len({e.tokenizer for e in evaluations}) == 1
    table = Table("", "loss (nats a token)", title=title, title_justify="left")
    if one_tokenizer:
        table.add_column("perplexity")
    table.add_column("bits per byte")
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    for e in evaluations:
        perplexity = [f"{e.perplexity:,.2f}" if e.perplexity < 1e6 else f"{e.perplexity:.1e}"] if one_tokenizer else []
        table.add_row(e.label, f"{e.loss:.4f}", *perplexity, f"{e.bits_per_byte:.4f}")
    console = Console(highlight=False, markup=False)
    console.print(table)
    if not one_tokenizer:
        console.print("The tokenizers differ: compare bits per byte only. Perplexity is left out.")
    if len({e.text for e in evaluations}) > 1:
        console.print("The evaluations did not read the same text: no number here compares them fairly.")
