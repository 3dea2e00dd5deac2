"""How many texts a classifier puts into their class: zero-shot transfer, when it was trained in another language."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap
from transformers import PreTrainedModel

from clpds import recipe
from clpds.bounds import RECORD
from clpds.checkpoint import Checkpoint
from clpds.data.blocks import Blocks, on_device
from clpds.data.labelled import Labelled, encode, read_labelled
from clpds.errors import UserError
from clpds.evaluation.model import load_model, tokenizer_folder
from clpds.inside import read_json
from clpds.models.encoder import longest
from clpds.objectives.classification import Classification, class_logits
from clpds.progress import progress
from clpds.vocabulary.tokenizer import load_tokenizer

LONGEST = 512  # tokens of a text that are read, unless told
RESAMPLES = 2000  # of the texts, for the interval


def measure_task(step: recipe.Eval, checkpoint: Checkpoint) -> dict[str, Any]:
    """Accuracy on the labelled texts of ``step.data`` with a 95 % interval (bootstrap over texts), and chance.

    Chance is the share of the most frequent class. Raises UserError for a model without a classifier,
    texts of a class that it does not know, and one that does not fit its tokenizer.
    """
    beside = _accuracy(step.beside) if step.beside else None
    folder = tokenizer_folder(checkpoint)
    model = load_model(checkpoint)
    known = [model.config.id2label[number] for number in range(model.config.num_labels)]
    Classification(tuple(known)).check(model)
    found = read_labelled([step.data], step.text_key, step.label_key)
    for number, label in enumerate(found.labels, 1):
        if label not in known:
            raise UserError(f"{step.data}: text {number:,} is of class '{label}'; the model tells {', '.join(known)}")
    length = min(step.sequence_length or LONGEST, longest(model) or LONGEST)
    texts = Labelled(found.texts[: step.blocks], found.labels[: step.blocks])
    blocks = Blocks(step.data, encode(texts, known, load_tokenizer(folder), length))
    right = rightly(model, blocks, step.micro_batch)
    counts = np.unique(texts.labels, return_counts=True)[1]
    low, high = interval(right, step.seed)
    return {
        "model": str(step.model),
        "data": str(step.data),
        "objective": "classification",
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
        "chance": float(counts.max() / counts.sum()),
        "beside": beside,
        "texts": len(right),
        "classes": known,
    }


def _accuracy(path: Path) -> float:
    """Of an evaluation that was written before."""
    try:
        return float(read_json(path, RECORD)["accuracy"])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} was not written by `clpds eval --task --out`: {error!r}") from error


@torch.no_grad()
def rightly(model: PreTrainedModel, blocks: Blocks, micro_batch: int) -> np.ndarray:
    """Whether each text was put into its class: (texts,) bool."""
    model.eval()
    right: list[np.ndarray] = []
    with progress("classifying (texts)", len(blocks)) as advance:
        for first in range(0, len(blocks), micro_batch):
            indices = range(first, min(first + micro_batch, len(blocks)))
            batch = on_device(blocks.batch(indices), model.device)
            right.append((class_logits(model, batch).argmax(dim=1) == batch.labels[:, 0]).cpu().numpy())
            advance(len(indices))
    return np.concatenate(right)


def interval(right: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % of the mean of ``right`` (texts,), by the percentiles of a bootstrap."""
    if right.all() or not right.any():
        return float(right[0]), float(right[0])
    found = bootstrap(
        (right,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=100, rng=np.random.default_rng(seed)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def show_task(numbers: dict[str, Any]) -> None:
    """The numbers as a table on the screen."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_row("model", numbers["model"])
    table.add_row("data", numbers["data"])
    table.add_row("texts", f"{numbers['texts']:,} in {len(numbers['classes'])} classes")
    table.add_row("accuracy", f"{numbers['accuracy']:.1%}  ({numbers['low']:.1%} to {numbers['high']:.1%})")
    table.add_row("chance", f"{numbers['chance']:.1%}, the most frequent class")
    if numbers["beside"] is not None:
        table.add_row("beside", f"{numbers['beside']:.1%}")
    Console(highlight=False, markup=False).print(table)
