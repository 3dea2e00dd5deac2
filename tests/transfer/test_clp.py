"""The weightings against their definitions, written out naively."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from clpds.transfer.clp import Space, Variant, clp, helper_space, row_map
from clpds.transfer.condition import condition
from clpds.vocabulary.overlap import Overlap


def shared(count: int = 60, missing: int = 25, source_rows: int = 100) -> Overlap:
    """A vocabulary of ``count`` shared and ``missing`` new tokens in random order."""
    order = torch.randperm(count + missing, generator=torch.Generator().manual_seed(0))
    return Overlap(
        target=order[:count].sort().values,
        source=torch.randperm(source_rows, generator=torch.Generator().manual_seed(1))[:count],
        missing=order[count:].sort().values,
        rows=count + missing,
        how={"text": count},
    )


def gauss(*shape: int, seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + mean


def naive(H: Tensor, S: Tensor, found: Overlap, variant: Variant) -> Tensor:
    """The rows of the missing tokens, token by token, in float64."""
    H, S = H.double(), S.double()
    if variant.center:
        H = H - torch.cat([H[found.target], H[found.missing]]).mean(dim=0)
    rows = []
    for t in found.missing:
        weights = cosine_similarity(H[t][None], H[found.target])
        if variant.kind == "clipped":
            weights = weights.clamp(min=0)
        if variant.kind == "nearest":
            least = weights.sort(descending=True).values[variant.neighbours - 1]
            weights = torch.where(weights >= least, (weights / variant.temperature).exp(), 0)
        row = (weights / weights.sum()) @ S[found.source]
        longer = row.norm() > S[found.source].norm(dim=1).max()  # than all it is a mean of
        rows.append(S[found.source].mean(dim=0) if longer else row)
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "variant",
    [
        Variant("published"),
        Variant("published", center=True),
        Variant("clipped"),
        Variant("nearest", neighbours=7, temperature=0.1, center=True),
    ],
    ids=str,
)
def test_rows_equal_the_definition_token_by_token(
    variant: Variant, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clpds.vocabulary.blocks.BLOCK", 300)  # several blocks in every loop
    found = shared()
    S, H = gauss(100, 24, seed=2).to(dtype), gauss(90, 16, seed=3, mean=0.5).to(dtype)
    new = clp(found, variant, {"input": H})(S, "input")
    expected = naive(H, S, found, variant)
    assert new.dtype == dtype
    assert torch.equal(new[found.target], S[found.source])
    tolerance = 3e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(new[found.missing].double(), expected, rtol=tolerance, atol=tolerance * 0.1)


def test_a_role_takes_its_weights_from_its_own_helper_matrix() -> None:
    found, S = shared(), gauss(100, 8, seed=2)
    helper = {"input": gauss(85, 16, seed=3, mean=0.5), "output": gauss(85, 16, seed=4, mean=0.5)}
    new = clp(found, Variant("published"), helper)(S, "output")
    expected = naive(helper["output"], S, found, Variant("published"))
    torch.testing.assert_close(new[found.missing].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_token_without_a_denominator_gets_the_mean_row() -> None:
    found, S, H = shared(), gauss(100, 8, seed=2), gauss(85, 16, seed=3)
    H[found.missing[4]] = 0  # what a padding row of a helper often is
    for kind in ("published", "clipped"):
        new = clp(found, Variant(kind), {"input": H})(S, "input")
        torch.testing.assert_close(new[found.missing[4]], S[found.source].mean(dim=0))
        assert new.isfinite().all()


def test_a_row_longer_than_all_that_it_is_made_of_is_the_mean_row() -> None:
    found, S, H = shared(), gauss(100, 8, seed=2), gauss(85, 16, seed=3)  # no common direction: weights cancel
    new = clp(found, Variant("published"), {"input": H})(S, "input")[found.missing]
    plain = (new == S[found.source].mean(dim=0)).all(dim=1)
    assert 0 < plain.sum() < len(plain)
    assert new.norm(dim=1).max() <= S[found.source].norm(dim=1).max()
    assert condition(found, S, clp(found, Variant("published"), {"input": H})(S, "input")).plain == plain.sum()


def test_ridge_is_the_penalised_least_squares_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clpds.vocabulary.blocks.BLOCK", 300)
    space = Space(gauss(60, 10, seed=0, mean=0.3), gauss(5, 10, seed=1))
    S = gauss(60, 6, seed=2, mean=1.0)
    H, h, s = space.overlap - space.overlap.mean(0), space.overlap.mean(0), S.mean(0)
    penalty = 0.5 * float(torch.linalg.eigvalsh(H.T @ H).mean())
    # Least squares over the rows of H and, for the penalty, sqrt(lambda) I against zeros.
    W = torch.linalg.lstsq(
        torch.cat([H, penalty**0.5 * torch.eye(10)]), torch.cat([S - s, torch.zeros(10, 6)])
    ).solution
    expected = s + (space.missing - h) @ W
    made = row_map(space.overlap, S, Variant("ridge", ridge=0.5))(space.missing)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


def test_ridge_recovers_a_planted_linear_relation() -> None:
    found, H = shared(), gauss(85, 16, seed=3, mean=0.5)
    W, b = gauss(16, 24, seed=4), gauss(24, seed=5)
    truth = torch.nn.functional.normalize(H) @ W + b
    S = torch.zeros(100, 24)
    S[found.source] = truth[found.target]
    new = clp(found, Variant("ridge", ridge=0.0), {"input": H})(S, "input")
    torch.testing.assert_close(new[found.missing], truth[found.missing], rtol=1e-3, atol=1e-4)


def test_shared_rows_shrink_towards_the_ridge_map_and_special_ones_stay() -> None:
    found, S, H = shared(), gauss(100, 24, seed=2), gauss(85, 16, seed=3, mean=0.5)
    special, plain = found.target[7], clp(found, Variant("ridge", ridge=0.1), {"input": H})(S, "input")
    new = clp(found, Variant("ridge", ridge=0.1), {"input": H}, shrink=0.25, special=[int(special)])(S, "input")
    space = helper_space(H, found, center=False)
    h, s = space.overlap.mean(dim=0), S[found.source].mean(dim=0)
    gram = (space.overlap - h).T @ (space.overlap - h)
    W = torch.linalg.solve(
        gram + 0.1 * gram.trace() / 16 * torch.eye(16), (space.overlap - h).T @ (S[found.source] - s)
    )
    expected = 0.75 * S[found.source] + 0.25 * (s + (space.overlap - h) @ W)
    expected[7] = S[found.source[7]]
    torch.testing.assert_close(new[found.target], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(new[found.missing], plain[found.missing])
    assert torch.equal(plain[found.target], S[found.source])


def test_space_of_unit_rows_centred_on_all_tokens_in_use() -> None:
    found, H = shared(), gauss(90, 16, seed=3, mean=2.0)
    space = helper_space(H, found, center=True)
    centred = H - H[:85].mean(dim=0)  # rows 85 to 89 belong to no token
    expected = centred[found.target] / centred[found.target].norm(dim=1, keepdim=True)
    torch.testing.assert_close(space.overlap, expected)
