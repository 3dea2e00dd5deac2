"""The order of samples in a mixture of corpora: a pure function of (seed, number of the sample)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from clpds.errors import UserError
from clpds.vocabulary.tokenizer import load_tokenizer, require_same

PERIOD = 10_000  # slots that the weights are rounded to
EPOCH, MIX = 1, 2  # what a random stream is for


B_co = TypeVar("B_co", bound=tuple[Tensor, ...], covariant=True)


class Samples(Protocol[B_co]):
    """What a mixture needs of a corpus: the blocks of `clpds data`, or the pairs of `clpds pairs`."""

    folder: Path
    tokenizer_folder: Path
    sequence_length: int
    fingerprint: str
    classes: tuple[str, ...]
    single: bool

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], *, isolate: bool = True) -> B_co: ...

    def predicted_bytes(self, indices: Sequence[int]) -> int: ...


class Mixture(Generic[B_co]):
    """Blocks of several corpora by weight; each corpus is read once through before any block comes again.

    Sample ``index`` is the same whatever the world size, the micro batch or the step it is asked at.
    Weights are rounded to whole slots of a period (at most 10,000); every period holds each corpus
    exactly as often as its slots say, in an order of its own. Each epoch of a corpus is a
    permutation keyed by (seed, corpus, epoch).
    """

    def __init__(self, corpora: Sequence[Samples[B_co]], weights: Sequence[float], seed: int) -> None:
        if not corpora:
            raise UserError("a mixture needs at least one corpus; name a data folder")
        for corpus, weight in zip(corpora, weights, strict=True):
            if not 0 < weight < float("inf"):
                raise UserError(f"weight {weight} of {corpus.folder} is not above 0; leave the corpus out instead")
        for corpus in corpora[1:]:
            require_alike(corpora[0], corpus)
        self.corpora = tuple(corpora)
        self.sequence_length = corpora[0].sequence_length
        self._seed = seed % 2**64
        self._slots = _slots(weights)
        self._slots_of_period = int(self._slots.sum())
        self._period = -1
        self._epochs = [-1] * len(corpora)
        self._permutations = [np.empty(0, np.uint32)] * len(corpora)

    def locate(self, index: int) -> tuple[int, int]:
        """(corpus, block) of sample ``index``; any index costs the same."""
        period, slot = divmod(index, self._slots_of_period)
        self._enter(period)
        corpus = int(self._order[slot])
        use = period * int(self._slots[corpus]) + int(self._ranks[slot])
        epoch, place = divmod(use, len(self.corpora[corpus]))
        return corpus, int(self._permutation(corpus, epoch)[place])

    def batch(self, indices: Sequence[int], *, isolate: bool = True) -> B_co:
        """The samples ``indices``, in that order."""
        located = [self.locate(index) for index in indices]
        if len({corpus for corpus, _ in located}) == 1:  # at once: a third of the time
            return self.corpora[located[0][0]].batch([block for _, block in located], isolate=isolate)
        rows = [self.corpora[corpus].batch([block], isolate=isolate) for corpus, block in located]
        return type(rows[0])(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    def _enter(self, period: int) -> None:
        """Order the slots of this period, and number the uses of each corpus in it."""
        if period == self._period:
            return
        slots = np.repeat(np.arange(len(self._slots)), self._slots)
        self._order = np.random.default_rng([self._seed, MIX, period]).permutation(slots)
        self._ranks = np.empty_like(self._order)
        self._ranks[np.argsort(self._order, kind="stable")] = np.concatenate([np.arange(n) for n in self._slots])
        self._period = period

    def _permutation(self, corpus: int, epoch: int) -> np.ndarray:
        if self._epochs[corpus] != epoch:
            random = np.random.default_rng([self._seed, EPOCH, corpus, epoch])
            self._permutations[corpus] = random.permutation(np.arange(len(self.corpora[corpus]), dtype=np.uint32))
            self._epochs[corpus] = epoch
        return self._permutations[corpus]


def _slots(weights: Sequence[float]) -> np.ndarray:
    """Whole slots proportional to the weights, by largest remainder, at least one each, in lowest terms."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * PERIOD
    slots = np.maximum(np.floor(exact).astype(np.int64), 1)
    left = max(PERIOD - int(slots.sum()), 0)
    slots[np.argsort(slots - exact, kind="stable")[:left]] += 1
    return slots // np.gcd.reduce(slots)


def require_alike(a: Samples[Any], b: Samples[Any]) -> None:
    """UserError unless the two have blocks of one length and kind, the same classes and the same tokenizer."""
    if a.sequence_length != b.sequence_length:
        raise UserError(
            f"{a.folder} has blocks of {a.sequence_length} tokens, {b.folder} of {b.sequence_length}; "
            "a stage needs one sequence_length"
        )
    if a.classes != b.classes:
        raise UserError(f"{a.folder} and {b.folder} have different classes, or only one of them has any")
    if a.single != b.single:
        one, other = (a, b) if a.single else (b, a)
        raise UserError(f"{one.folder} has one document a block, {other.folder} several; prepare both alike")
    files = [blocks.tokenizer_folder / "tokenizer.json" for blocks in (a, b)]
    if files[0].read_bytes() != files[1].read_bytes():
        tokenizer_a, tokenizer_b = load_tokenizer(a.tokenizer_folder), load_tokenizer(b.tokenizer_folder)
        require_same(tokenizer_a, tokenizer_b, str(a.folder), str(b.folder))
