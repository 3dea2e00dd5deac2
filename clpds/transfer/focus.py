"""FOCUS: a missing token as a sparse mean of the shared tokens that are used like it in text.

Dobler & de Melo 2023, *FOCUS: Effective Embedding Initialization for Monolingual Specialization of
Multilingual Models*, arXiv 2305.14481. ``docs/methods/focus.md`` has the maths.
"""

import torch
from torch import Tensor

from clpds.progress import progress
from clpds.transfer.baselines import drawn
from clpds.transfer.clp import helper_space
from clpds.transfer.vocabulary_swap import Role, Rows
from clpds.vocabulary.blocks import blocks
from clpds.vocabulary.overlap import Overlap

FIRST = 128  # scores that are sorted at first: seldom are more above 0


def focus(shared: Overlap, vectors: Tensor, seed: int) -> Rows:
    """The overlap's rows copied, each missing one a convex combination of source rows s_o of the overlap.

    Its weights are sparsemax_o(cos(x_t, x_o)), x the static ``vectors``, (V_t, p), any dtype. A shared token
    whose vector is zero is no candidate; a missing one has nothing to go by and is drawn from the
    normal distribution with the source's mean and deviation per dimension.
    """
    space = helper_space(vectors, shared, center=False)
    candidates, placed = space.overlap.any(dim=1), space.missing.any(dim=1)
    x_o, x_t = space.overlap[candidates], space.missing[placed]

    def rows(source: Tensor, role: Role) -> Tensor:
        new = drawn(source, shared.rows, role, seed)
        new[shared.target] = source[shared.source]
        if not len(x_o):
            return new
        s_o, missing = source[shared.source[candidates]].float(), shared.missing[placed]
        with progress("weighting new tokens", len(x_t)) as advance:
            for part in blocks(len(x_t), len(x_o)):
                new[missing[part]] = (sparsemax(x_t[part] @ x_o.T) @ s_o).to(source.dtype)
                advance(len(missing[part]))
        return new

    return rows


def sparsemax(scores: Tensor) -> Tensor:
    """The point of the simplex next to each row of ``scores`` (m, n) (Martins & Astudillo 2016, arXiv 1602.02068).

    max(0, z - tau) with tau such that it sums to 1. Algorithm 1 there: of the scores z in descending order the first
    k are above 0, k the last place at which 1 + k z_k > z_1 + ... + z_k. In float64, whatever the dtype of ``scores``:
    in float32 the sum of many cosines is off by more than what lies between two of them.
    """
    width, first = scores.shape[1], FIRST
    while True:
        ordered = scores.topk(min(first, width), dim=1).values.double()
        sums, place = ordered.cumsum(dim=1), torch.arange(1, ordered.shape[1] + 1, dtype=torch.float64)
        above = 1 + place * ordered > sums  # true of the first, and of none behind one that it is false of
        if first >= width or not bool(above[:, -1].any()):
            break
        first *= 8
    count = above.sum(dim=1, keepdim=True)
    tau = (sums.gather(1, count - 1) - 1) / count
    return (scores.double() - tau).clamp_(min=0).to(scores.dtype)
