"""One axis of one tensor made longer, so that what is written at one end is read back at the other.

A fill is a pair. With E the map from the old coordinates of an axis to the new ones, a tensor that writes
there becomes E W, one that reads there becomes W R with R E = 1, and the product is the old one:

| fill | added when written | added when read |
|---|---|---|
| zero | zero | drawn |
| mean | the mean of the old coordinates | drawn |
| unread | drawn | zero |
| copy | the old coordinates again | a share: the shares of all copies make up the old one |

One side of each is alive: drawn readers give zero writers a gradient, and the other way round; unequal
shares give twins different gradients. What is drawn has the standard deviation of the tensor.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Fill = Literal["zero", "mean", "unread", "copy"]


@dataclass(frozen=True)
class Axis:
    """An axis of ``old`` units that gets ``new``, in each of its ``parts``."""

    old: int
    new: int
    fill: Fill
    unit: int = 1
    """Elements of a unit: the head size where the units are heads."""
    parts: int = 1
    """Equal blocks one after the other that all grow, as of query, key and value."""
    places: tuple[int, ...] | None = None
    """Where the old units go among the new; to the front unless told."""

    def of(self, symbol: str) -> "Axis":
        """As ``symbol`` of a rule spells it: ``3q`` three blocks, ``q3`` units three times as large."""
        if symbol[0] == "3":
            return replace(self, parts=3)
        return replace(self, unit=3 * self.unit) if symbol[-1] == "3" else self

    @property
    def length(self) -> int:
        """Elements of the grown axis."""
        return self.parts * self.new * self.unit


@dataclass(frozen=True)
class Draw:
    """Where random numbers of one tensor come from."""

    generator: torch.Generator
    source: Tensor
    """The source's tensor."""
    noise: float
    """Deviation of what is added to copies and zeros, in units of ``deviation``."""

    @cached_property
    def deviation(self) -> float:
        """Standard deviation of the source's tensor, rounded, so that the order of summing does not matter."""
        return float(f"{self.source.float().std(correction=0):.3g}")

    def normal(self, shape: torch.Size) -> Tensor:
        """Float32, mean 0, the tensor's deviation."""
        return torch.randn(shape, generator=self.generator).mul_(self.deviation)

    def noisy(self, added: Tensor) -> Tensor:
        """``added`` with the noise asked for."""
        return (added + self.noise * self.normal(added.shape)).to(added.dtype) if self.noise else added


def write(tensor: Tensor, dim: int, axis: Axis, draw: Draw) -> Tensor:
    """``tensor`` grown along ``dim``, where it writes: E W."""
    old = _blocks(tensor, dim, axis)
    extra = torch.Size((axis.parts, axis.new - axis.old, *old.shape[2:]))
    if axis.fill == "unread":
        added = draw.normal(extra).to(old.dtype)
    elif axis.fill == "zero":
        added = draw.noisy(old.new_zeros(extra))
    elif axis.fill == "mean":
        mean = old.mean(dim=1, keepdim=True, dtype=torch.float32).to(old.dtype)
        added = draw.noisy(mean.expand(extra))
    else:
        added = draw.noisy(old.repeat(1, axis.new // axis.old - 1, 1))
    return _joined(tensor, dim, axis, old, added)


def read(tensor: Tensor, dim: int, axis: Axis, draw: Draw) -> Tensor:
    """``tensor`` grown along ``dim``, where it reads: W R."""
    old = _blocks(tensor, dim, axis)
    extra = torch.Size((axis.parts, axis.new - axis.old, *old.shape[2:]))
    if axis.fill == "copy":
        first, *others = _shares(old, axis.new // axis.old, draw)
        return _joined(tensor, dim, axis, first, draw.noisy(torch.cat([first[:, :0], *others], dim=1)))
    added = draw.noisy(old.new_zeros(extra)) if axis.fill == "unread" else draw.normal(extra).to(old.dtype)
    return _joined(tensor, dim, axis, old, added)


def _shares(old: Tensor, count: int, draw: Draw) -> list[Tensor]:
    """``count`` tensors that add up to ``old``, unequal but for rounding: weights of 0.5 to 1.5 over their sum."""
    weights = 0.5 + torch.rand((count, *old.shape), generator=draw.generator)
    weights /= weights.sum(dim=0)
    shares = [(old * weight).to(old.dtype) for weight in weights[1:]]
    rest = old.float()
    for share in shares:
        rest = rest - share
    return [rest.to(old.dtype), *shares]


def _blocks(tensor: Tensor, dim: int, axis: Axis) -> Tensor:
    """(parts, units, elements of a unit at this axis times all other axes)."""
    return tensor.movedim(dim, 0).reshape(axis.parts, axis.old, -1)


def _joined(tensor: Tensor, dim: int, axis: Axis, old: Tensor, added: Tensor) -> Tensor:
    """Old and added units in their places, in ``tensor``'s layout."""
    rest = tensor.movedim(dim, 0).shape[1:]

    def laid_out(blocks: Tensor) -> Tensor:
        return blocks.reshape(-1, *rest).movedim(0, dim)

    if axis.parts == 1 and not axis.places:  # copied once: matrices that are turned twice take three times as long
        return torch.cat([laid_out(old), laid_out(added)], dim=dim)
    new = torch.cat([old, added], dim=1)
    if axis.places:
        others = [place for place in range(axis.new) if place not in axis.places]
        new = new[:, torch.tensor([*axis.places, *others]).argsort()]
    return laid_out(new).contiguous()
