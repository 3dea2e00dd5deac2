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

    max(0, z - tau) with tau such that it sums to 1. Michelot's iteration finds tau exactly: tau is the
    mean of what is above the last one, less its share, and ever fewer are above.
    """
    above = torch.ones_like(scores, dtype=torch.bool)
    while True:
        count = above.sum(dim=1, keepdim=True)
        tau = ((scores * above).sum(dim=1, keepdim=True) - 1) / count
        above = scores > tau
        if torch.equal(above.sum(dim=1, keepdim=True), count):
            return (scores - tau).clamp_(min=0)
