"""Rank weightings before any model runs: hide shared tokens, predict their source rows, and try to tell them apart.

A model uses its rows by comparing a hidden state with all of them. The true row of a hidden token, less the mean row,
stands in for the state that calls for it; the loss is the cross entropy of finding the token, by its predicted row,
among all rows. Rows that have become one vector cannot be found, and a row that explodes is found always.

Shared tokens have nearer neighbours in the overlap than the missing ones, for which they are to speak: a weighting
that lives on near neighbours would be judged by what it will not have. So hidden tokens count by how often the missing
are as near as they.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from clpds.progress import progress
from clpds.transfer.clp import (
    Kind,
    Space,
    Variant,
    clipped_means,
    cosine_blocks,
    helper_space,
    nearest,
    neighbours,
    published_map,
    ridge_maps,
)
from clpds.transfer.omp import combinations
from clpds.transfer.vocabulary_swap import Role
from clpds.vocabulary.blocks import blocks
from clpds.vocabulary.overlap import Overlap

HELD_OUT = 1000  # tokens
SPREAD = 2.0  # standard deviation of the logits with the true rows
NEIGHBOURS = (5, 10, 20, 50)
TEMPERATURES = (0.05, 0.1, 0.2)
RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)
NEAREST = 3  # seen tokens whose mean cosine says how near a token is to the overlap
BUCKETS = 8  # of nearness, with as many hidden tokens each
SPARSITIES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Score:
    """How well a variant predicts the source rows of shared tokens that it has not seen."""

    variant: Variant | None
    """None: the mean row for every token, which takes no helper."""
    loss: float
    """Nats a hidden token."""
    error: float
    """Standard error of the difference to the mean row's loss."""
    cosine: float
    """Mean cosine of predicted and true row."""

    def facts(self) -> dict[str, Any]:
        """For provenance.json."""
        variant = asdict(self.variant) if self.variant else {"kind": "mean row"}
        return {**variant, "loss": self.loss, "cosine": self.cosine}


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
    hidden, seen = _hide(shared, seed)
    measures: dict[Variant | None, list[tuple[float, float, float]]] = {}
    with progress("ranking weightings", len(source) * (1 + len(variants))) as advance:
        for role, matrix in source.items():
            for variant, measure in _measures(shared, matrix, helper[role], hidden, seen, variants):
                measures.setdefault(variant, []).append(measure)
                advance(1)
    scores = [Score(variant, *torch.tensor(m).mean(dim=0).tolist()) for variant, m in measures.items()]
    return sorted(scores, key=lambda score: score.loss)


def _measures(
    shared: Overlap, matrix: Tensor, helper: Tensor, hidden: Tensor, seen: Tensor, variants: Sequence[Variant]
) -> Iterator[tuple[Variant | None, tuple[float, float, float]]]:
    """Loss, error and cosine of the mean row (None) and of every variant, for one role."""
    s_o, truth = matrix[shared.source[seen]].float(), matrix[shared.source[hidden]].float()
    k = max(NEAREST, *(variant.neighbours for variant in variants))
    plain = _look(helper_space(helper, shared, center=False), hidden, seen, s_o, k)
    space = helper_space(helper, shared, center=True)
    centred = _look(space, hidden, seen, s_o, k)
    weights, search = _weights(centred, space.missing), _search(truth, s_o)
    mean = s_o.mean(dim=0).expand_as(truth)
    base = weights * search.losses(mean)
    yield None, _measure(mean, truth, base, base)
    for center, look in ((False, plain), (True, centred)):
        for variant, predicted in _predictions(look, s_o, [v for v in variants if v.center == center]):
            yield variant, _measure(predicted, truth, weights * search.losses(predicted), base)


def choose_sparsity(
    shared: Overlap, source: Mapping[Role, Tensor], helper: Mapping[Role, Tensor], *, centered: bool, seed: int
) -> tuple[int, dict[int, float]]:
    """How many shared tokens ``omp`` is to combine, and the loss, as ``rank`` has it, of every number tried.

    The fewest that are no worse than the best by more than the standard error of the difference: the hidden tokens
    are few, and many shared ones reproduce what is noise in the helper.
    """
    hidden, seen = _hide(shared, seed)
    losses = torch.zeros(len(SPARSITIES), len(hidden))
    for role, matrix in source.items():
        s_o, truth = matrix[shared.source[seen]], matrix[shared.source[hidden]].float()
        h_o = helper[role][shared.target]
        predicted = combinations(h_o[hidden], h_o[seen], s_o, SPARSITIES, centered=centered)
        search = _search(truth, s_o)
        losses += torch.stack([search.losses(rows) for rows in predicted]) / len(source)
    more = losses - losses[losses.mean(dim=1).argmin()]
    error = more.std(dim=1, correction=0) / len(hidden) ** 0.5
    fewest = int((more.mean(dim=1) <= error).nonzero()[0])
    return SPARSITIES[fewest], dict(zip(SPARSITIES, losses.mean(dim=1).tolist(), strict=True))


def best(scores: Sequence[Score]) -> Score:
    """The score of the best ridge, which is what ``auto`` takes.

    Where helpers were tried out to the end, ridge was ahead or within a few hundredths of a bit, and a scale-free
    strength is all there is to choose. ``nearest`` may predict hidden tokens better and start a worse model, since
    missing tokens that share their neighbours get nearly one row, which shows too little among few hidden ones.
    """
    return next(score for score in scores if score.variant and score.variant.kind == "ridge")


def _hide(shared: Overlap, seed: int) -> tuple[Tensor, Tensor]:
    """Places in the overlap of the tokens to predict and of those to predict them from."""
    order = torch.randperm(len(shared.target), generator=torch.Generator().manual_seed(seed))
    hidden, seen = order.tensor_split([min(HELD_OUT, max(1, len(order) // 5))])
    return hidden, seen


@dataclass(frozen=True)
class _Look:
    """What the cosines of hidden and seen tokens give, which are computed once."""

    space: Space
    """The hidden tokens as the missing ones, the seen as the overlap."""
    cosines: Tensor
    """(n, k): of the nearest seen tokens, nearest first."""
    indices: Tensor
    """(n, k): their places."""
    clipped: Tensor
    """(n, d) float32: the rows of ``clp.clipped``."""


def _look(whole: Space, hidden: Tensor, seen: Tensor, source: Tensor, k: int) -> _Look:
    space = Space(whole.overlap[seen], whole.overlap[hidden])
    n, k = len(hidden), min(k, len(seen))
    look = _Look(space, torch.empty(n, k), torch.empty(n, k, dtype=torch.long), torch.empty(n, source.shape[1]))
    for part, cosines in cosine_blocks(space):
        look.cosines[part], look.indices[part] = torch.topk(cosines, k)
        look.clipped[part] = clipped_means(cosines, source)
    return look


def _weights(centred: _Look, missing: Tensor) -> Tensor:
    """Of the hidden tokens, (n,) with mean 1: how often missing ones are in the same bucket of nearness."""
    some = missing[:: max(1, len(missing) // HELD_OUT)]
    theirs_near, _ = neighbours(Space(centred.space.overlap, some), NEAREST)
    near = centred.cosines[:, :NEAREST].mean(dim=1)
    edges = torch.quantile(near, torch.linspace(0, 1, BUCKETS + 1))[1:-1]
    own, theirs = torch.bucketize(near, edges), torch.bucketize(theirs_near.mean(dim=1), edges)
    count = torch.bincount(theirs, minlength=BUCKETS) + 1  # no bucket is worth nothing
    weights = (count / torch.bincount(own, minlength=BUCKETS))[own]
    return weights / weights.mean()


def _predictions(look: _Look, source: Tensor, variants: Sequence[Variant]) -> Iterator[tuple[Variant, Tensor]]:
    """Each variant's rows of the hidden tokens; what variants of a kind have in common is computed once."""
    kinds: dict[Kind, list[Variant]] = {}
    for variant in variants:
        kinds.setdefault(variant.kind, []).append(variant)
    ridges = kinds.get("ridge", [])
    for variant, said in zip(ridges, ridge_maps(look.space.overlap, source, [v.ridge for v in ridges]), strict=True):
        yield variant, said(look.space.missing)
    by_k = attrgetter("neighbours")
    for k, alike in groupby(sorted(kinds.get("nearest", []), key=by_k), key=by_k):
        several = list(alike)
        temperatures = [variant.temperature for variant in several]
        yield from zip(several, nearest(look.cosines[:, :k], look.indices[:, :k], source, temperatures), strict=True)
    for variant in kinds.get("clipped", []):
        yield variant, look.clipped
    for variant in kinds.get("published", []):
        yield variant, published_map(look.space.overlap, source)(look.space.missing)


@dataclass(frozen=True)
class _Search:
    """Finding hidden tokens among all rows: what no prediction changes, computed once for all variants."""

    states: Tensor
    """(n, d) float32: the true rows less the seen ones' mean, scaled so that logits spread as ``SPREAD`` says."""
    others: Tensor
    """(n,): log of the sum of the exponents of the logits that the seen tokens' rows have."""

    def losses(self, predicted: Tensor) -> Tensor:
        """Cross entropy of finding each hidden token, (n,), by its row ``predicted`` (n, d)."""
        logits = self.states @ predicted.T
        return torch.logaddexp(logits.logsumexp(dim=1), self.others) - logits.diagonal()


def _search(truth: Tensor, seen: Tensor) -> _Search:
    # What all rows share is the same in every logit; in the states it would only tell rows apart by their length
    # along it, alike for every token: small models' rows share much, and the ranking was led by that.
    states = truth - seen.mean(dim=0, dtype=torch.float32)
    others = torch.cat([states @ seen[part].float().T for part in blocks(*seen.shape)], dim=1)
    scale = SPREAD / torch.cat([states @ truth.T, others], dim=1).std()
    return _Search(scale * states, (scale * others).logsumexp(dim=1))


def _measure(predicted: Tensor, truth: Tensor, losses: Tensor, base: Tensor) -> tuple[float, float, float]:
    error = (losses - base).std(correction=0) / len(losses) ** 0.5
    return float(losses.mean()), float(error), float(cosine_similarity(predicted, truth).mean())
