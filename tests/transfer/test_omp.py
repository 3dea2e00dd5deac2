"""Orthogonal matching pursuit against the textbook, token by token."""

import pytest
import torch
from torch import Tensor

from clpds.transfer.choose import choose_sparsity
from clpds.transfer.omp import coefficients, combinations, omp, pursue
from tests.transfer.test_clp import gauss, shared


def naive(h: Tensor, atoms: Tensor, s_o: Tensor, k: int) -> Tensor:
    """One token in float64: the atom of the largest |cosine| to the residual, then least squares on all so far."""
    h, atoms = h.double(), atoms.double()
    chosen: list[int] = []
    left = h
    for _ in range(k):
        match = (atoms @ left).abs() / atoms.norm(dim=1)
        match[chosen] = -1
        chosen.append(int(match.argmax()))
        x = torch.linalg.lstsq(atoms[chosen].T, h[:, None]).solution
        left = h - atoms[chosen].T @ x[:, 0]
    return s_o[chosen].double().T @ x[:, 0]


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("centered", [True, False])
def test_rows_equal_the_textbook(k: int, centered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clpds.vocabulary.blocks.BLOCK", 600)  # several blocks
    found = shared()
    S, H = gauss(100, 24, seed=2), gauss(90, 16, seed=3, mean=0.5)
    new = omp(found, {"input": H}, k, centered=centered)(S, "input")
    assert torch.equal(new[found.target], S[found.source])
    h, s = (H[found.target].mean(0), S[found.source].mean(0)) if centered else (torch.zeros(16), torch.zeros(24))
    expected = [s + naive(H[id_] - h, H[found.target] - h, S[found.source] - s, k) for id_ in found.missing]
    torch.testing.assert_close(new[found.missing].double(), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_smaller_sparsities_are_prefixes_of_the_largest() -> None:
    H, atoms, S = gauss(9, 16, seed=0), gauss(40, 16, seed=1), gauss(40, 5, seed=2)
    together = combinations(H, atoms, S, [1, 4, 12])
    for k, rows in zip([1, 4, 12], together, strict=True):
        torch.testing.assert_close(rows, combinations(H, atoms, S, [k])[0], rtol=1e-4, atol=1e-4)


def test_what_is_explained_needs_no_more_atoms() -> None:
    """Rows that atoms explain fully, a zero row, equal atoms, and more atoms asked for than there are."""
    atoms = gauss(12, 32, seed=0)
    atoms[7] = atoms[3]
    wanted = torch.stack([2 * atoms[3] - atoms[5], torch.zeros(32), atoms[0]])
    chosen, used = pursue(wanted, atoms, 12)
    x = coefficients(wanted, atoms[chosen], used)
    assert x.isfinite().all()
    torch.testing.assert_close(torch.einsum("mk,mkp->mp", x, atoms[chosen]), wanted, rtol=1e-4, atol=1e-4)
    assert (x[1] == 0).all()
    assert int(used[2].sum()) == 1
    many = combinations(wanted, atoms, atoms, [64], centered=False)[0]
    torch.testing.assert_close(many, wanted, rtol=1e-4, atol=1e-4)


def test_hidden_tokens_tell_how_many_atoms_a_token_is_made_of() -> None:
    """Helper rows that are sums of few source rows under noise: one atom is too few, all are noise."""
    found = shared(count=200, missing=5, source_rows=220)
    S = gauss(220, 40, seed=0)
    H = torch.zeros(205, 30)
    H[found.target] = S[found.source] @ gauss(40, 30, seed=1) + 3 * gauss(200, 30, seed=2)
    chosen, losses = choose_sparsity(found, {"input": S}, {"input": H}, centered=False, seed=0)
    assert chosen not in (32, 64)
    assert chosen <= min(losses, key=lambda k: losses[k])  # where two are alike, the fewer tokens


def test_a_token_of_which_the_helper_knows_nothing_gets_the_mean_row() -> None:
    found, S, H = shared(), gauss(100, 24, seed=2), gauss(90, 16, seed=3, mean=0.5)
    H[found.missing[2]] = H[found.target].mean(dim=0)
    new = omp(found, {"input": H}, 4)(S, "input")
    torch.testing.assert_close(new[found.missing[2]], S[found.source].mean(dim=0), rtol=1e-4, atol=1e-4)


def test_centring_keeps_out_a_direction_that_all_rows_share() -> None:
    """Published coefficients need not sum to 1, and so move what all of the source's rows have in common."""
    found, S = shared(count=200, missing=50, source_rows=260), gauss(260, 32, seed=2, mean=2.0)
    H = gauss(250, 24, seed=3, mean=0.1)  # tells nothing
    common = S[found.source].mean(dim=0)
    lengths = []
    for centered in (True, False):
        new = omp(found, {"input": H}, 8, centered=centered)(S, "input")[found.missing]
        lengths.append((new @ common / common.norm() ** 2).std())
    assert lengths[0] < lengths[1] / 5
