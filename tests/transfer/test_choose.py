"""Ranking on hidden shared tokens, and the numbers that warn."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from clpds.transfer.choose import best, grid, rank
from clpds.transfer.clp import Variant, clp, helper_space
from clpds.transfer.condition import condition, share_cancelling
from clpds.vocabulary.overlap import Overlap
from tests.transfer.test_clp import gauss, shared


def related(found: Overlap, helper_mean: float, source_mean: float) -> tuple[Tensor, Tensor]:
    """Helper and source rows that share latent vectors, each about a common vector of its own."""
    latent = gauss(found.rows, 12, seed=7)
    H = latent @ gauss(12, 24, seed=8) + 0.5 * gauss(found.rows, 24, seed=9) + helper_mean * gauss(24, seed=10)
    S = gauss(1000, 32, seed=11)
    S[found.source] = (latent @ gauss(12, 32, seed=12))[found.target]
    return H, S + source_mean * gauss(32, seed=13)


@pytest.mark.parametrize(
    ("helper_mean", "source_mean", "words"),
    [(0.0, 1.0, "cancel out"), (40.0, 3.0, "nearly one vector")],
    ids=["no common direction", "a strong common direction"],
)
def test_unfit_rows_are_noticed_and_a_better_variant_is_found(
    helper_mean: float, source_mean: float, words: str
) -> None:
    found = shared(600, 300, 1000)
    H, S = related(found, helper_mean, source_mean)
    published = Variant("published")
    new = clp(found, published, {"input": H})(S, "input")
    complaint = condition(found, S, new, cancelling=share_cancelling(helper_space(H, found, center=False))).complaint()
    assert complaint is not None
    assert words in complaint
    scores = rank(found, {"input": S}, {"input": H}, seed=0, variants=grid())
    loss = {score.variant: score.loss for score in scores}
    better = best(scores)
    assert better.variant is not None
    assert better.loss < loss[published] - 0.1
    assert better.loss < loss[None] - 2 * better.error
    new = clp(found, better.variant, {"input": H})(S, "input")
    assert condition(found, S, new).complaint() is None


def test_rows_of_a_well_conditioned_space_raise_no_complaint() -> None:
    found = shared(600, 300, 1000)
    H, S = gauss(900, 24, seed=1, mean=1.0), gauss(1000, 32, seed=2)
    new = S[torch.arange(900)]
    assert (
        condition(found, S, new, cancelling=share_cancelling(helper_space(H, found, center=False))).complaint() is None
    )


def test_the_ranking_is_what_evaluating_every_variant_by_itself_gives() -> None:
    found = shared(120, 40, 200)
    H, S = related(found, 1.0, 1.0)[0], gauss(200, 32, seed=11)
    S[found.source] = H[found.target] @ gauss(24, 32, seed=3) + 2.0
    variants = grid()
    scores = rank(found, {"input": S}, {"input": H}, seed=5, variants=variants)

    order = torch.randperm(120, generator=torch.Generator().manual_seed(5))
    hidden, seen = order[:24], order[24:]
    centred = helper_space(H, found, center=True)

    def nearness(row: Tensor) -> float:
        return sum(sorted((float(row @ centred.overlap[token]) for token in seen.tolist()), reverse=True)[:3]) / 3

    near = {token: nearness(centred.overlap[token]) for token in hidden.tolist()}
    missing = [nearness(row) for row in centred.missing]
    ranked = sorted(near, key=lambda token: near[token])
    buckets = [ranked[3 * number : 3 * number + 3] for number in range(8)]  # of eight with three tokens each
    edges = torch.quantile(torch.tensor([*near.values()]), torch.arange(1, 8) / 8).tolist()
    weight = {
        token: 1 + sum(low < one <= high for one in missing)
        for bucket, low, high in zip(buckets, [-2, *edges], [*edges, 2], strict=True)
        for token in bucket
    }
    assert len(set(weight.values())) > 2
    total = sum(weight.values())
    brute = {}
    for variant in variants:
        # A vocabulary in which the hidden tokens are missing; all tokens in use still centre the helper.
        space = helper_space(H, found, center=variant.center).overlap
        part = Overlap(seen, found.source[seen], hidden, 120, {})
        new = clp(part, Variant(**{**vars(variant), "center": False}), {"input": space})(S, "input")[:120]
        truth = S[found.source]
        states = truth - truth[seen].mean(dim=0)
        scale = 2 / (states[hidden] @ truth.T).std()
        losses = []
        for token in hidden.tolist():  # find the token's row among all, from the state that calls for it
            logits = scale * (new @ states[token])
            losses.append(weight[token] * float(logits.logsumexp(dim=0) - logits[token]))
        brute[variant] = sum(losses) / total
    assert {score.variant: pytest.approx(score.loss, rel=1e-4) for score in scores if score.variant} == brute
    ridges = [variant for variant in variants if variant.kind == "ridge"]
    assert best(scores).variant == min(ridges, key=lambda variant: brute[variant])
    assert [score.loss for score in scores] == sorted(score.loss for score in scores)


def test_one_row_that_explodes_is_noticed() -> None:
    found = shared(600, 300, 1000)
    H, S = gauss(900, 24, seed=1, mean=1.0), gauss(1000, 32, seed=2)
    new = S[torch.arange(900)]
    new[found.missing[7]] *= 10
    complaint = condition(found, S, new, cancelling=share_cancelling(helper_space(H, found, center=False))).complaint()
    assert complaint is not None
    assert "times the length of the longest shared one" in complaint


def test_two_roles_count_alike() -> None:
    found = shared(120, 40, 200)
    H, S, head = gauss(160, 24, seed=1), gauss(200, 32, seed=2), gauss(200, 32, seed=3, mean=1.0)
    variants = [Variant("ridge")]

    def score(source: dict[str, Tensor]) -> float:
        helper = dict.fromkeys(source, H)
        return next(s.loss for s in rank(found, source, helper, seed=0, variants=variants) if s.variant)  # type: ignore[arg-type]

    both = score({"input": S, "output": head})
    assert both == pytest.approx((score({"input": S}) + score({"input": head})) / 2, abs=1e-6)


@pytest.mark.parametrize("block", [2**24, 12], ids=["at once", "a few rows at a time"])
def test_the_condition_is_that_of_all_rows_and_all_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clpds.vocabulary.blocks.BLOCK", block)
    found = shared(20, 11, 30)
    S, new = gauss(30, 5, seed=0, mean=0.5), gauss(31, 5, seed=1, mean=2.0)
    new[found.missing[3]] = new[found.missing[7]] = S[found.source].mean(dim=0)
    overlap, missing = S[found.source], new[found.missing]

    def pairwise(rows: Tensor) -> float:
        pairs = [cosine_similarity(a, b, dim=0) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return float(sum(pairs) / len(pairs))

    measured = condition(found, S, new)
    assert measured.pairwise == pytest.approx(pairwise(missing), abs=1e-5)
    assert measured.source_pairwise == pytest.approx(pairwise(overlap), abs=1e-5)
    assert measured.norm == pytest.approx(float(missing.norm(dim=1).median() / overlap.norm(dim=1).median()))
    assert measured.longest == pytest.approx(float(missing.norm(dim=1).max() / overlap.norm(dim=1).max()))
    assert measured.plain == 2
