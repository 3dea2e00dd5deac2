"""CLP-Transfer and the weightings beyond it: tensors in, tensors out.

Ostendorff & Rehm 2023, arXiv 2301.09626. The overlap's rows are copied. A missing token t gets the mean
of the source rows s_o of the overlap, weighted by the similarity of the helper's rows h_t and h_o.
``docs/methods/clp.md`` has the maths.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clpds.progress import progress
from clpds.transfer.vocabulary_swap import Role, Rows
from clpds.vocabulary.blocks import blocks
from clpds.vocabulary.overlap import Overlap

Kind = Literal["published", "clipped", "nearest", "ridge"]
RowMap = Callable[[Tensor], Tensor]
"""From the missing tokens' helper rows (m, p), at length 1, to their new rows: (m, d) float32."""


@dataclass(frozen=True)
class Variant:
    """A weighting with its options; the fields mean what they mean in ``recipe.Init``."""

    kind: Kind
    neighbours: int = 10
    temperature: float = 0.05
    ridge: float = 0.01
    center: bool = False

    def __str__(self) -> str:
        """The options that choose it on the command line."""
        text = f"--weighting {self.kind}"
        if self.kind == "nearest":
            text += f" --neighbours {self.neighbours} --temperature {self.temperature:g}"
        if self.kind == "ridge":
            text += f" --ridge {self.ridge:g}"
        return f"{text} --center" if self.center else text


@dataclass(frozen=True)
class Space:
    """The helper's rows scaled to length 1, so that h_t . h_o is their cosine; zero rows stay zero."""

    overlap: Tensor
    """(n, p) float32: h_o, in the order of ``Overlap.target``."""
    missing: Tensor
    """(m, p) float32: h_t, in the order of ``Overlap.missing``."""


def helper_space(helper: Tensor, shared: Overlap, *, center: bool) -> Space:
    """The rows of ``helper``, (V_h, p), any dtype; ``center`` first takes off the mean of all those in use."""
    overlap, missing = helper[shared.target].float(), helper[shared.missing].float()
    if center:
        mean = (overlap.sum(dim=0) + missing.sum(dim=0)) / (len(overlap) + len(missing))
        overlap -= mean
        missing -= mean
    return Space(normalize(overlap, out=overlap), normalize(missing, out=missing))


def clp(
    shared: Overlap,
    variant: Variant,
    helper: Mapping[Role, Tensor],
    *,
    shrink: float = 0.0,
    special: Collection[int] = (),
) -> Rows:
    """The method: the overlap's rows copied bit for bit, the missing ones by ``variant``.

    ``helper`` has the helper's matrix for each role, (V_h, p). With ``shrink`` the overlap's rows are moved by that
    share, but for those of the target ids ``special``.
    """
    ordinary = ~torch.isin(shared.target, torch.tensor([*special], dtype=torch.int64))

    def rows(source: Tensor, role: Role) -> Tensor:
        overlap = source[shared.source]
        new = torch.empty(shared.rows, source.shape[1], dtype=source.dtype)
        new[shared.target] = overlap
        space = helper_space(helper[role], shared, center=variant.center)
        if shrink:
            new[shared.target[ordinary]] = shrunk(space.overlap, overlap, variant.ridge, shrink)[ordinary]
        make = row_map(space.overlap, overlap, variant)
        with progress("new rows", len(shared.missing)) as advance:
            for part in blocks(len(shared.missing), source.shape[1]):
                ids = shared.missing[part]
                new[ids] = make(space.missing[part]).to(source.dtype)
                advance(len(ids))
        return new

    return rows


def row_map(overlap: Tensor, source: Tensor, variant: Variant) -> RowMap:
    """How ``variant`` makes rows from the overlap's rows: h_o (n, p) at length 1, and s_o (n, d) of any dtype."""
    if variant.kind == "published":
        return published_map(overlap, source)
    if variant.kind == "ridge":
        return ridge_maps(overlap, source, [variant.ridge])[0]
    if variant.kind == "clipped":
        return partial(clipped, overlap, source.float())
    k, temperature = variant.neighbours, variant.temperature
    return lambda missing: nearest(*neighbours(Space(overlap, missing), k), source, [temperature])[0]


@dataclass(frozen=True)
class PublishedMap:
    """The paper's weights, w_o = cos(h_t, h_o) / sum cos(h_t, h_o'), without a similarity matrix.

    They are linear in h_t: e_t = (h_t . A) / (h_t . z), A = sum_o h_o s_o^T and z = sum_o h_o.
    The mean of the source's rows takes the place of a row whose denominator is zero to float32's rounding, as that
    of a zero helper row is, and of one that is longer than all rows it is made of: no mean is. One such row wins
    every softmax (7 of 6,447 made 13.8 bits per byte of what is 2.9 without them).
    """

    A: Tensor
    """(p, d) float32."""
    z: Tensor
    """(p,) float64."""
    mean: Tensor
    """(d,) float32: of the source's rows."""
    longest: float
    """Of the source's rows."""
    zero: float
    """What a denominator has to be above."""

    def __call__(self, helper: Tensor) -> Tensor:
        """Rows (m, d) float32 for the helper's rows (m, p), scaled to length 1."""
        denominators = helper.double() @ self.z
        rows = (helper @ self.A).div_(denominators.float()[:, None])
        rows[(denominators.abs() <= self.zero) | (rows.norm(dim=1) > self.longest)] = self.mean
        return rows


def published_map(overlap: Tensor, source: Tensor) -> PublishedMap:
    """The map of ``overlap``, h_o (n, p) at length 1, and ``source``, s_o (n, d) of any dtype."""
    A = torch.zeros(overlap.shape[1], source.shape[1], dtype=torch.float64)
    longest = 0.0
    for part in blocks(*source.shape):
        s_o = source[part].float()
        A += overlap[part].T @ s_o
        longest = max(longest, float(s_o.norm(dim=1).max()))
    return PublishedMap(
        A.float(),
        z=overlap.sum(dim=0, dtype=torch.float64),
        mean=source.mean(dim=0, dtype=torch.float32),
        longest=longest,
        zero=torch.finfo(torch.float32).eps * len(source),
    )


def clipped(overlap: Tensor, source: Tensor, missing: Tensor) -> Tensor:
    """The paper's weights with negative cosines set to 0; the mean of ``source`` where none is left.

    Rows (m, d) for ``missing``, h_t (m, p), from ``overlap``, h_o (n, p), both at length 1, and s_o (n, d): float32.
    """
    rows = torch.empty(len(missing), source.shape[1])
    for part, cosines in cosine_blocks(Space(overlap, missing)):
        rows[part] = clipped_means(cosines, source)
    return rows


def clipped_means(cosines: Tensor, source: Tensor) -> Tensor:
    """``clipped`` from the cosines (b, n): rows (b, d) float32."""
    weights = cosines.clamp(min=0)
    weights[weights.sum(dim=1) == 0] = 1
    return (weights @ source).div_(weights.sum(dim=1, keepdim=True))


def cosine_blocks(space: Space) -> Iterator[tuple[slice, Tensor]]:
    """Which missing tokens, some at a time, and their cosines with all of the overlap: (b, n), valid until the next."""
    parts = blocks(len(space.missing), len(space.overlap))
    held = torch.empty(min(len(space.missing), parts[0].stop) if parts else 0, len(space.overlap))
    for part in parts:  # into the same memory: fresh pages each time are a fifth of the time
        rows = space.missing[part]
        yield part, torch.mm(rows, space.overlap.T, out=held[: len(rows)])


def neighbours(space: Space, k: int, advance: Callable[[float], None] = lambda _: None) -> tuple[Tensor, Tensor]:
    """Cosines and positions in the overlap of each missing token's k nearest, nearest first: both (m, k).

    k falls to n where the overlap is smaller.
    """
    k = min(k, len(space.overlap))
    cosines, indices = torch.empty(len(space.missing), k), torch.empty(len(space.missing), k, dtype=torch.long)
    for part, block in cosine_blocks(space):
        cosines[part], indices[part] = torch.topk(block, k)
        advance(len(block))
    return cosines, indices


def nearest(cosines: Tensor, indices: Tensor, source: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Mean of the nearest tokens' rows, weighted by softmax(cosine / temperature): (temperatures, m, d) float32."""
    weights = torch.softmax(cosines[:, None] / torch.tensor(temperatures)[:, None], dim=2)
    rows = torch.empty(len(temperatures), len(weights), source.shape[1])
    for part in blocks(len(weights), source.shape[1] * indices.shape[1]):
        rows[:, part] = (weights[part] @ source[indices[part]].float()).transpose(0, 1)
    return rows


@dataclass(frozen=True)
class RidgeMap:
    """From the helper's rows to the source's: W = argmin ||H W - S||^2 + lambda ||W||^2, fitted on the overlap.

    H and S are centred on the overlap, which is an intercept without a penalty: a token of which the
    helper knows nothing gets the mean row. lambda is the strength times the mean eigenvalue of H^T H,
    so that its meaning depends neither on the helper's width nor on the size of the overlap.
    """

    h_mean: Tensor
    """(p,) float32."""
    s_mean: Tensor
    """(d,) float32."""
    W: Tensor
    """(p, d) float32."""

    def __call__(self, helper: Tensor) -> Tensor:
        """Rows (m, d) float32 for the helper's rows (m, p), scaled to length 1."""
        return self.s_mean + (helper - self.h_mean) @ self.W


def ridge_maps(overlap: Tensor, source: Tensor, strengths: Sequence[float]) -> list[RidgeMap]:
    """A map of each strength from ``overlap``, h_o (n, p) at length 1, to ``source``, s_o (n, d) of any dtype."""
    if not strengths:
        return []
    h_mean, s_mean = overlap.mean(dim=0), source.mean(dim=0, dtype=torch.float32)
    p, d = overlap.shape[1], source.shape[1]
    gram, moment = torch.zeros(p, p, dtype=torch.float64), torch.zeros(p, d, dtype=torch.float64)
    for part in blocks(*source.shape):
        h_o = overlap[part] - h_mean
        gram += h_o.T @ h_o
        moment += h_o.T @ (source[part].float() - s_mean)
    maps = []
    for strength in strengths:
        penalty = max(strength * float(gram.trace()) / p, torch.finfo(torch.float32).tiny)
        W = torch.linalg.solve(gram + penalty * torch.eye(p, dtype=torch.float64), moment)
        maps.append(RidgeMap(h_mean, s_mean, W.float()))
    return maps


def shrunk(overlap: Tensor, source: Tensor, ridge: float, share: float) -> Tensor:
    """The overlap's rows (n, d), moved by ``share`` to what the map of strength ``ridge`` makes of them; same dtype.

    The same text need not mean the same: German ``die``, ``war`` and ``in`` are English words too. What the map says
    of such a token comes from all the others.
    """
    (said,) = ridge_maps(overlap, source, [ridge])
    rows = torch.empty_like(source)
    for part in blocks(*source.shape):
        rows[part] = torch.lerp(source[part].float(), said(overlap[part]), share).to(source.dtype)
    return rows
