"""What CLP-Transfer is measured against: methods that need no helper."""

from collections.abc import Mapping

import torch
from torch import Tensor

from clpds.transfer.vocabulary_swap import Role, Rows
from clpds.vocabulary.overlap import Overlap


def random_rows(shared: Overlap, seed: int) -> Rows:
    """Every row drawn from the normal distribution with the source's mean and deviation per dimension.

    The overlap is not copied: this is the paper's baseline, a body that is reused under a vocabulary
    that is not.
    """

    def rows(source: Tensor, role: Role) -> Tensor:
        return drawn(source, shared.rows, role, seed)

    return rows


def overlap_rows(shared: Overlap, seed: int) -> Rows:
    """The overlap copied, every missing row drawn as in ``random_rows``."""

    def rows(source: Tensor, role: Role) -> Tensor:
        new = drawn(source, shared.rows, role, seed)
        new[shared.target] = source[shared.source]
        return new

    return rows


def drawn(source: Tensor, count: int, role: Role, seed: int) -> Tensor:
    """``count`` rows (count, c) from the normal distribution with the mean and deviation of each column of ``source``.

    Each role has noise of its own.
    """
    generator = torch.Generator().manual_seed(2 * seed + (role == "output"))
    noise = torch.randn(count, source.shape[1], generator=generator)
    deviation, mean = torch.std_mean(source.float(), dim=0, correction=0)
    return (noise * deviation + mean).to(source.dtype)


def mean_rows(shared: Overlap) -> Rows:
    """The overlap copied, every missing row the mean of all the source's rows."""

    def rows(source: Tensor, role: Role) -> Tensor:
        new = source.mean(dim=0, dtype=torch.float32).to(source.dtype).repeat(shared.rows, 1)
        new[shared.target] = source[shared.source]
        return new

    return rows


def subpiece_rows(shared: Overlap, segments: Mapping[int, list[int]]) -> Rows:
    """The overlap copied, a missing row the mean of the source rows of the token's own text.

    ``segments`` maps missing target ids to source ids (``vocabulary.segments``); the mean of all the source's rows
    where there are none, as for special tokens.
    """

    def rows(source: Tensor, role: Role) -> Tensor:
        new = mean_rows(shared)(source, role)
        for target, ids in segments.items():
            new[target] = source[ids].mean(dim=0, dtype=torch.float32).to(source.dtype)
        return new

    return rows
