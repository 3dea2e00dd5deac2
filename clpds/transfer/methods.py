"""The methods by name: from the options and the opened models to the new rows.

To add one: its name in ``InitMethod`` of ``recipe/steps.py``, what it needs and its options in ``NEEDS`` and
``USED_BY`` there, and a line in ``METHODS`` below.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from clpds.errors import UserError
from clpds.recipe import Init, InitMethod
from clpds.transfer.baselines import mean_rows, random_rows, segment, subpiece_rows
from clpds.transfer.choose import Choice, best, grid, rank
from clpds.transfer.clp import Variant, clp
from clpds.transfer.models import Models
from clpds.transfer.vocabulary_swap import Rows


@dataclass(frozen=True)
class Found:
    """What a method makes of the models."""

    rows: Rows
    how: str
    """Where the rows come from, for the model card."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For provenance.json."""
    choice: Choice | None = None
    """The ranking of weightings, where the method has several."""


def find(step: Init, models: Models) -> Found:
    """The rows by ``step.method``; UserError where its inputs do not fit together."""
    return METHODS[step.method](step, models)


def _clp(step: Init, models: Models) -> Found:
    """Rank the weightings and take the one asked for, or the best for ``auto``."""
    shared, helper = models.shared, models.helper_matrices()
    if len(shared.target) - shared.how["special"] < 2:
        raise UserError(
            f"{step.source} and {step.helper} have no overlap: no text is a token of both; try --method mean"
        )
    asked, variants = None, grid()
    if step.weighting != "auto":
        asked = Variant(step.weighting, step.neighbours, step.temperature, step.ridge, step.center)
        variants = list(dict.fromkeys([asked, *variants]))
    source = {role: models.matrix(role, rows) for role, rows in models.rows.items()}
    scores = rank(shared, source, helper, seed=step.seed, variants=variants)
    chosen = asked or best(scores).variant
    assert chosen is not None  # best() passes over the mean row
    return Found(
        clp(shared, chosen, helper),
        f"CLP-Transfer (Ostendorff & Rehm 2023, arXiv 2301.09626), `{chosen}`",
        {"weighting": asdict(chosen), "ranking": [score.facts() for score in scores]},
        Choice(chosen, scores, helper),
    )


def _random(step: Init, models: Models) -> Found:
    how = "random, with the source's mean and deviation per dimension; nothing is copied"
    return Found(random_rows(models.shared, step.seed), how)


def _mean(step: Init, models: Models) -> Found:
    return Found(mean_rows(models.shared), "shared ones copied, new ones the mean of the source's rows")


def _subpieces(step: Init, models: Models) -> Found:
    how = "shared ones copied, new ones the mean of their own text's rows under the source's tokenizer"
    segments = segment(models.source_tokenizer, models.target_tokenizer, models.shared.missing.tolist())
    return Found(subpiece_rows(models.shared, segments), how)


METHODS: dict[InitMethod, Callable[[Init, Models], Found]] = {
    "clp": _clp,
    "random": _random,
    "mean": _mean,
    "subpieces": _subpieces,
}
