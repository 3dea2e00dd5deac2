"""Alignment without a dictionary on spaces whose true rotation is known; small budgets, all steps of the procedure."""

import itertools

import pytest
import torch
from torch import Tensor

from clpds.vocabulary import adversarial as room
from clpds.vocabulary.adversarial import align_adversarially, centre, criterion, towards_orthogonal, train_map
from clpds.vocabulary.alignment import best_match, refine
from clpds.vocabulary.induction import first_map, induce

D = 12


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STEPS", 8)
    monkeypatch.setattr(room, "HIDDEN", 48)


def gauss(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(seed: int) -> Tensor:
    return torch.linalg.qr(gauss(D, D, seed=seed)).Q


def space(seed: int, count: int = 200) -> Tensor:
    """Clusters of very different size, some directions longer than others, and off the origin, as of words."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 1 / torch.arange(1, 31, dtype=torch.float32)
    cluster = torch.multinomial(sizes, count, replacement=True, generator=generator)
    points = gauss(30, D, seed=seed + 1)[cluster] + 0.6 * gauss(count, D, seed=seed + 2)
    return points * torch.linspace(1.5, 0.3, D) + 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_rotation_is_found_without_a_single_pair(seed: int) -> None:
    """Up to noise, and with the rows of the second space in another order."""
    x, R = space(10), rotation(9)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(4))
    y = (x @ R + 0.1 * gauss(*x.shape, seed=5))[order]
    found = align_adversarially(x, y, seed=seed)
    torch.testing.assert_close(found.W @ found.W.T, torch.eye(D), atol=1e-5, rtol=0)
    assert (found.W - R).norm() < 0.3
    assert torch.equal(order[best_match(x @ found.W, y)[0]], torch.arange(len(x)))
    assert found.agreement > 0.9


def test_spaces_without_a_common_shape_show_in_the_agreement() -> None:
    x, y = gauss(300, D, seed=1), gauss(300, D, seed=2)
    assert align_adversarially(x, y, seed=0).agreement < 0.5


def test_equal_seeds_give_equal_bytes_and_leave_the_generator_alone() -> None:
    x, y = space(10), space(20)
    before = torch.get_rng_state()
    first, again, other = (align_adversarially(x, y, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.W, again.W)
    assert first.facts() == again.facts()
    assert not torch.equal(first.W, other.W)


def test_the_orthogonality_step_goes_towards_orthogonal() -> None:
    W = rotation(1) + 0.1 * gauss(D, D, seed=2)
    errors = [(torch.linalg.svdvals(W) - 1).abs().max()]
    for _ in range(300):
        W = towards_orthogonal(W)
        errors.append((torch.linalg.svdvals(W) - 1).abs().max())
    assert all(after < before for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.02


def test_the_adversary_moves_the_map_and_keeps_it_near_orthogonal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes nearer to the truth from a map that is off, and no singular value leaves 1 far."""
    monkeypatch.setattr(room, "STEPS", 100)
    x, R = centre(space(10)), rotation(9)
    off = R @ torch.linalg.matrix_exp(0.12 * (gauss(D, D, seed=3) - gauss(D, D, seed=3).T))
    torch.manual_seed(0)
    W = train_map(x, x @ R, off, 1)
    assert (W - R).norm() < 0.7 * (off - R).norm()
    assert (torch.linalg.svdvals(W) - 1).abs().max() < 0.25


def test_a_map_that_no_epoch_improves_on_is_kept() -> None:
    x, R = centre(space(10)), rotation(9)
    assert torch.equal(train_map(x, x @ R, R, 1), R)


def test_equal_sets_pair_each_row_with_itself() -> None:
    x = space(10)
    assert torch.equal(best_match(x, x)[0], torch.arange(len(x)))


def test_induction_never_lowers_the_criterion() -> None:
    """Whatever they begin with: the truth, something near it, anything."""
    x, R = centre(space(10)), rotation(9)
    y = centre(x @ R + 0.2 * gauss(*x.shape, seed=5))
    torch.manual_seed(0)
    for W in (R, first_map(x, y), rotation(3)):
        both_ways = [(criterion(x, y, map_) + criterion(y, x, map_.T)) / 2 for map_ in (W, induce(x, y, W, "pairs"))]
        assert both_ways[1] >= both_ways[0]


def test_induction_gets_on_where_refinement_alone_stays() -> None:
    """With much noise, from a first map that is all but random."""
    points, R = space(10), rotation(9)
    x, y = centre(points), centre(points @ R + 0.7 * gauss(*points.shape, seed=8))
    W = first_map(x, y)
    torch.manual_seed(0)
    assert (refine(x, y, W, rounds=20) - R).norm() > 3
    assert (induce(x, y, W, "pairs") - R).norm() < 0.8


def test_signatures_find_the_rotation_where_it_is_exact_whatever_the_order_of_the_rows() -> None:
    x, R = centre(space(10)), rotation(9)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(first_map(x, (x @ R)[order]), R, atol=1e-3, rtol=0)
