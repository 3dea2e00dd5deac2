"""Rank weightings before any model runs: hide shared tokens, predict their source rows, compare.

The measure is the mean cosine of predicted and true row, neither centred. Centred cosines would call
rows good that have all collapsed to nearly one vector but deviate from it in the right direction;
the model sees the vectors, not their deviations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from clpds.transfer.clp import Space, Variant, helper_space, missing_rows, nearest, neighbours
from clpds.transfer.vocabulary_swap import Role
from clpds.vocabulary.overlap import Overlap

HELD_OUT = 1000  # tokens; the standard error of the mean cosine is then under 0.01
NEIGHBOURS = (5, 10, 20, 50)
TEMPERATURES = (0.05, 0.1, 0.2)
RIDGES = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Score:
    """How well a variant predicts the source rows of shared tokens that it has not seen."""

    variant: Variant | None
    """None: the mean row for every token, which takes no helper."""
    cosine: float
    """Mean cosine of predicted and true row."""
    explained: float
    """1 - sum |e - s|^2 / sum |s - mean|^2: 0 for the mean row, far below it where rows explode."""

    def facts(self) -> dict[str, Any]:
        """For provenance.json."""
        variant = asdict(self.variant) if self.variant else {"kind": "mean row"}
        return {**variant, "cosine": self.cosine, "explained": self.explained}


@dataclass(frozen=True)
class Choice:
    """The weighting taken, the ranking it was taken from, and the helper's matrix for each role, (V_h, p)."""

    variant: Variant
    scores: list[Score]
    helper: dict[Role, Tensor]


def grid() -> list[Variant]:
    """All variants that are ranked."""
    variants = [Variant("ridge", ridge=strength) for strength in RIDGES]
    for center in (False, True):
        variants += [Variant("published", center=center), Variant("clipped", center=center)]
        variants += [
            Variant("nearest", neighbours=k, temperature=temperature, center=center)
            for k in NEIGHBOURS
            for temperature in TEMPERATURES
        ]
    return variants


def rank(
    shared: Overlap,
    source: Mapping[Role, Tensor],
    helper: Mapping[Role, Tensor],
    *,
    seed: int,
    variants: Sequence[Variant],
) -> list[Score]:
    """Scores of ``variants`` and of the mean row, best first.

    ``source`` and ``helper`` are the matrices of each role, (V_s, d) and (V_h, p); a score is the
    mean over the roles. A fifth of the overlap is hidden, 1000 tokens at most, chosen by ``seed``.
    """
    order = torch.randperm(len(shared.target), generator=torch.Generator().manual_seed(seed))
    hidden, seen = order.tensor_split([min(HELD_OUT, max(1, len(order) // 5))])
    measures: dict[Variant | None, list[tuple[float, float]]] = {}
    for role, matrix in source.items():
        s_o, truth = matrix[shared.source[seen]], matrix[shared.source[hidden]].float()
        mean = s_o.mean(dim=0, dtype=torch.float32)
        measures.setdefault(None, []).append(_measure(mean.expand_as(truth), truth, mean))
        for center in (False, True):
            rows = helper_space(helper[role], shared, center=center).overlap
            space = Space(rows[seen], rows[hidden])
            cosines, indices = neighbours(space, max(v.neighbours for v in variants))
            for variant in variants:
                if variant.center != center:
                    continue
                if variant.kind == "nearest":
                    k = variant.neighbours
                    predicted = nearest(cosines[:, :k], indices[:, :k], s_o, variant.temperature)
                else:
                    predicted = missing_rows(space, s_o, variant)
                measures.setdefault(variant, []).append(_measure(predicted, truth, mean))
    scores = [Score(variant, *torch.tensor(m).mean(dim=0).tolist()) for variant, m in measures.items()]
    return sorted(scores, key=lambda score: -score.cosine)


def best(scores: Sequence[Score]) -> Variant:
    """The variant with the highest cosine among those whose rows do not explode.

    Unrelated rows of the right length explain -1 of the spread; less means rows of the wrong length,
    which a cosine does not see. Some weightings are true averages, so there is always one left.
    """
    return next(score.variant for score in scores if score.variant and score.explained > -1)


def _measure(predicted: Tensor, truth: Tensor, mean: Tensor) -> tuple[float, float]:
    missed, spread = (predicted - truth).square().sum(), (truth - mean).square().sum()
    return float(cosine_similarity(predicted, truth).mean()), float(1 - missed / spread)
