"""Are new rows fit to start from? Numbers that show rows which explode or have all become one vector."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clpds.transfer.clp import Space
from clpds.vocabulary.blocks import blocks
from clpds.vocabulary.overlap import Overlap

SAMPLE = 512  # missing tokens whose weights are looked at one by one
CANCELS = 10  # sum |cos| / |sum cos|: from here on a row is a small difference of large ones
MANY = 0.01  # share of such tokens worth a warning
LONG = 2.0  # times the longest of the overlap's rows: one such row wins every softmax
ONE_VECTOR = 0.1  # spread of the new rows relative to that of the rows they are made of


@dataclass(frozen=True)
class Condition:
    """The missing tokens' rows beside the overlap's source rows, for one matrix."""

    norm: float
    """Median length of the new rows over the median length of the overlap's."""
    longest: float
    """Longest of the new rows over the longest of the overlap's."""
    pairwise: float
    """Mean cosine of two new rows."""
    source_pairwise: float
    """Mean cosine of two rows of the overlap."""
    cancelling: float
    """Share of tokens whose sum |cos(h_t, h_o)| is over ten times |sum cos(h_t, h_o)|; 0 but for `published`."""
    plain: int
    """New rows that are the mean of the overlap's and no more: of their tokens the method knew nothing."""

    def complaint(self) -> str | None:
        """What is wrong, in words, or None."""
        if self.cancelling > MANY:
            return f"the weights of {self.cancelling:.0%} of the new tokens nearly cancel out"
        if self.longest > LONG:
            return f"the longest new row has {self.longest:.1f} times the length of the longest shared one"
        if 1 - self.pairwise < ONE_VECTOR * (1 - self.source_pairwise):
            return f"the new rows are nearly one vector (mean pairwise cosine {self.pairwise:.3f})"
        return None


def condition(shared: Overlap, source: Tensor, new: Tensor, *, cancelling: float = 0.0) -> Condition:
    """Of the ``new`` matrix (rows, d), made from ``source`` (V_s, d); ``cancelling`` is the caller's to measure."""
    mean = source[shared.source].mean(dim=0, dtype=torch.float32).to(new.dtype)
    lengths, pairwise = _lengths_and_cosine(new, shared.missing)
    shared_lengths, source_pairwise = _lengths_and_cosine(source, shared.source)
    return Condition(
        norm=float(lengths.median() / shared_lengths.median()),
        longest=float(lengths.max() / shared_lengths.max()),
        pairwise=pairwise,
        source_pairwise=source_pairwise,
        cancelling=cancelling,
        plain=sum(int((rows == mean).all(dim=1).sum()) for rows in _some_at_a_time(new, shared.missing)),
    )


def _lengths_and_cosine(matrix: Tensor, ids: Tensor) -> tuple[Tensor, float]:
    """Of the rows ``ids`` their lengths, (N,) float32, and the mean cosine of two: (|sum u|^2 - N) / (N^2 - N).

    u are the rows at length 1.
    """
    lengths, total, count = [], torch.zeros(matrix.shape[1], dtype=torch.float64), len(ids)
    for rows in map(Tensor.float, _some_at_a_time(matrix, ids)):
        lengths.append(rows.norm(dim=1))
        total += normalize(rows).sum(dim=0)  # of a few thousand numbers of size 1: float32 does
    return torch.cat(lengths), float((total.square().sum() - count) / (count * count - count))


def _some_at_a_time(matrix: Tensor, ids: Tensor) -> Iterator[Tensor]:
    """Copies of the rows ``ids``; all at once are 0.4 GB of 50,257 x 4,096, when `init` holds much anyway."""
    return (matrix[ids[part]] for part in blocks(len(ids), matrix.shape[1]))


def share_cancelling(space: Space) -> float:
    """``Condition.cancelling`` of the published weights in ``space``, on 512 missing tokens evenly spaced."""
    h_t = space.missing[:: -(-len(space.missing) // SAMPLE)]
    absolute = torch.cat([(block @ space.overlap.T).abs().sum(dim=1) for block in h_t.split(64)])
    signed = h_t @ space.overlap.sum(dim=0)
    return float((absolute > CANCELS * signed.abs()).float().mean())
