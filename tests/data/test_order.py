"""The order of samples: every block once an epoch, the weights kept, the same from wherever it is asked."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clpds.data.blocks import Blocks
from clpds.data.order import Mixture
from clpds.errors import UserError
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as far as a mixture looks into it."""
    folder = tmp_path_factory.mktemp("corpus")
    tiny_tokenizer("byte_bpe").save_pretrained(folder / "tokenizer")
    return folder


@cache
def corpus(folder: Path, count: int, length: int = 4, first: int = 0) -> Blocks:
    """So many blocks, each one document; block n holds the token first + n."""
    features = datasets.Features(
        input_ids=datasets.List(datasets.Value("uint16"), length=length),
        ends=datasets.List(datasets.Value("int32")),
        predicted_bytes=datasets.Value("int64"),
    )
    columns = {
        "input_ids": [[first + n] * length for n in range(count)],
        "ends": [[length]] * count,
        "predicted_bytes": [1] * count,
    }
    return Blocks(folder, datasets.Dataset.from_dict(columns, features=features))


def sequence(mixture: Mixture, indices: Sequence[int]) -> list[tuple[int, int]]:
    return [mixture.locate(index) for index in indices]


corpora_and_weights = st.lists(st.tuples(st.integers(1, 12), st.floats(0.1, 1)), min_size=1, max_size=4)
seeds = st.integers(-1, 2**64)


@settings(max_examples=25, deadline=None)
@given(corpora_and_weights, seeds)
def test_every_block_comes_once_in_each_epoch(folder: Path, parts: list[tuple[int, float]], seed: int) -> None:
    sizes, weights = zip(*parts, strict=True)
    mixture = Mixture([corpus(folder, size) for size in sizes], weights, seed)
    located = sequence(mixture, range(600))
    for number, size in enumerate(sizes):
        uses = [block for where, block in located if where == number]
        epochs = [uses[start : start + size] for start in range(0, len(uses), size)]
        for epoch in epochs[:-1]:
            assert sorted(epoch) == list(range(size))
        assert len(set(epochs[-1])) == len(epochs[-1])


@settings(max_examples=10, deadline=None)
@given(corpora_and_weights, seeds)
def test_counts_are_the_weights(folder: Path, parts: list[tuple[int, float]], seed: int) -> None:
    sizes, weights = zip(*parts, strict=True)
    mixture = Mixture([corpus(folder, size) for size in sizes], weights, seed)
    located = sequence(mixture, range(30_000, 40_000))
    for number, weight in enumerate(weights):
        count = sum(where == number for where, _ in located)
        assert abs(count - 10_000 * weight / sum(weights)) < 1


def test_simple_weights_hold_over_a_few_samples(folder: Path) -> None:
    mixture = Mixture([corpus(folder, 7), corpus(folder, 5)], [0.9, 0.1], 0)
    located = sequence(mixture, range(1000))
    assert all(sum(where for where, _ in located[start : start + 10]) == 1 for start in range(0, 1000, 10))
    places = {where for start in range(0, 1000, 10) for where in [[w for w, _ in located[start : start + 10]].index(1)]}
    assert places == set(range(10))


def test_a_small_weight_still_has_its_turn(folder: Path) -> None:
    mixture = Mixture([corpus(folder, 7), corpus(folder, 5)], [1, 1e-7], 0)
    assert sum(where for where, _ in sequence(mixture, range(100_000, 110_000))) == 1


@settings(max_examples=25, deadline=None)
@given(corpora_and_weights, seeds, st.randoms(use_true_random=False))
def test_any_access_equals_sequential_access(
    folder: Path, parts: list[tuple[int, float]], seed: int, random: "st.random.Random"
) -> None:
    sizes, weights = zip(*parts, strict=True)
    corpora = [corpus(folder, size) for size in sizes]
    sequential = sequence(Mixture(corpora, weights, seed), range(200))
    shuffled = list(range(200))
    random.shuffle(shuffled)
    mixture = Mixture(corpora, weights, seed)
    assert {index: mixture.locate(index) for index in shuffled} == dict(enumerate(sequential))
    assert mixture.locate(10**15) == Mixture(corpora, weights, seed).locate(10**15)


def test_any_world_size_sees_the_same_batches(folder: Path) -> None:
    corpora = [corpus(folder, 7), corpus(folder, 5, first=100)]
    global_batch, steps = 8, 12
    whole = Mixture(corpora, [3, 1], 5).batch(range(global_batch * steps)).input_ids
    for ranks, micro_batch in ((1, 8), (2, 2), (4, 1), (8, 1)):
        rows: dict[int, torch.Tensor] = {}
        for rank in range(ranks):
            mixture = Mixture(corpora, [3, 1], 5)
            share = global_batch // ranks
            for step in range(steps):
                for start in range(
                    step * global_batch + rank * share, step * global_batch + (rank + 1) * share, micro_batch
                ):
                    indices = range(start, start + micro_batch)
                    rows |= dict(zip(indices, mixture.batch(indices).input_ids, strict=True))
        assert torch.equal(torch.stack([rows[index] for index in range(global_batch * steps)]), whole)


def test_a_batch_holds_the_blocks_that_locate_names(folder: Path) -> None:
    corpora = [corpus(folder, 7), corpus(folder, 5, first=100)]
    mixture = Mixture(corpora, [1, 1], 3)
    indices = [9, 2, 2, 31]
    batch = mixture.batch(indices)
    for row, index in enumerate(indices):
        where, block = mixture.locate(index)
        for joined, alone in zip(batch, corpora[where].batch([block]), strict=True):
            assert torch.equal(joined[row], alone[0])
    assert mixture.batch(indices, isolate=False).input_ids.equal(batch.input_ids)


def test_seeds_epochs_and_corpora_have_orders_of_their_own(folder: Path) -> None:
    def epochs(seed: int, number: int) -> list[list[int]]:
        mixture = Mixture([corpus(folder, 20), corpus(folder, 20)], [1, 1], seed)
        uses = [block for where, block in sequence(mixture, range(100)) if where == number]
        return [uses[:20], uses[20:40]]

    orders = [order for seed in (0, 1, 2**63) for number in (0, 1) for order in epochs(seed, number)]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_the_order_is_this_one_for_good(folder: Path) -> None:
    """A run resumed under a later version goes on in the same order."""
    mixture = Mixture([corpus(folder, 5), corpus(folder, 1000)], [1, 2], 42)
    assert sequence(mixture, [*range(6), 10**6]) == [(1, 765), (1, 342), (0, 4), (1, 495), (1, 423), (1, 801), (0, 3)]


def test_mixtures_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one corpus"):
        Mixture([], [], 0)
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match=rf"weight {weight} of .*{folder.name} is not above 0"):
            Mixture([corpus(folder, 5), corpus(folder, 6)], [1, weight], 0)
    other = tmp_path / "other"
    with pytest.raises(UserError, match=rf"{folder.name} has blocks of 4 tokens, .*other of 8"):
        Mixture([corpus(folder, 5), corpus(other, 5, length=8)], [1, 1], 0)
    tiny_tokenizer("byte_bpe", vocab_size=500).save_pretrained(other / "tokenizer")
    with pytest.raises(UserError, match=rf"{folder.name} and .*other have different tokenizers"):
        Mixture([corpus(folder, 5), corpus(other, 5)], [1, 1], 0)
