"""Are new rows fit to start from? Numbers that show rows which explode or have all become one vector."""

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
    overlap = source[shared.source]
    # Before the missing rows are taken out: it needs a float32 copy, and here is where `init` holds the most.
    mean = overlap.mean(dim=0, dtype=torch.float32).to(new.dtype)
    missing = new[shared.missing]
    lengths, shared_lengths = _lengths(missing), _lengths(overlap)
    return Condition(
        norm=float(lengths.median() / shared_lengths.median()),
        longest=float(lengths.max() / shared_lengths.max()),
        pairwise=mean_pairwise_cosine(missing),
        source_pairwise=mean_pairwise_cosine(overlap),
        cancelling=cancelling,
        plain=sum(int((missing[part] == mean).all(dim=1).sum()) for part in blocks(*missing.shape)),
    )


def mean_pairwise_cosine(rows: Tensor) -> float:
    """Mean cosine of two different rows of (N, d): (|sum u|^2 - N) / (N^2 - N), u the rows at length 1."""
    count = len(rows)
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for part in blocks(*rows.shape):
        total += normalize(rows[part].float()).sum(dim=0)  # of a few thousand numbers of size 1: float32 does
    return float((total.square().sum() - count) / (count * count - count))


def _lengths(rows: Tensor) -> Tensor:
    """(N,) float32."""
    return torch.cat([rows[part].float().norm(dim=1) for part in blocks(*rows.shape)])


def share_cancelling(space: Space) -> float:
    """``Condition.cancelling`` of the published weights in ``space``, on 512 missing tokens evenly spaced."""
    h_t = space.missing[:: -(-len(space.missing) // SAMPLE)]
    absolute = torch.cat([(block @ space.overlap.T).abs().sum(dim=1) for block in h_t.split(64)])
    signed = h_t @ space.overlap.sum(dim=0)
    return float((absolute > CANCELS * signed.abs()).float().mean())
