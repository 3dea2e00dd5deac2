"""Orthogonal matching pursuit: a missing token as a sparse combination of shared ones.

Goddard & Fernandes Neto 2025, *Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit*,
arXiv 2506.06607. ``docs/methods/omp.md`` has the maths.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clpds.progress import progress
from clpds.transfer.blocks import blocks
from clpds.transfer.vocabulary_swap import Role, Rows
from clpds.vocabulary.overlap import Overlap

NOTHING = 1e-5  # relative length below which float32 has no digits left


def omp(shared: Overlap, helper: Mapping[Role, Tensor], sparsity: int) -> Rows:
    """The overlap's rows copied, each missing one k source rows of the overlap with the helper's coefficients.

    h_t ~ sum_i x_i h_{o_i} with k = ``sparsity`` shared tokens o_i, then e_t = sum_i x_i s_{o_i}.
    ``helper`` has the helper's matrix for each role, (V_h, p).
    """

    def rows(source: Tensor, role: Role) -> Tensor:
        atoms, wanted = helper[role][shared.target].float(), helper[role][shared.missing].float()
        s_o = source[shared.source]
        new = torch.empty(shared.rows, source.shape[1], dtype=source.dtype)
        new[shared.target] = s_o
        k = min(sparsity, *atoms.shape)
        with progress("matching pursuit (new tokens)", len(wanted)) as advance:
            for part in blocks(len(wanted), max(len(atoms), k * max(atoms.shape[1], source.shape[1]))):
                chosen, x = pursue(wanted[part], atoms, k)
                new[shared.missing[part]] = torch.einsum("mk,mkd->md", x, s_o[chosen].float()).to(source.dtype)
                advance(len(chosen))
        return new

    return rows


def pursue(wanted: Tensor, atoms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """k ``atoms`` (n, p) for each row of ``wanted`` (m, p), and their coefficients: (m, k) int64, (m, k) float32.

    Greedy: k times the atom with the largest |cosine| to what is left of the row, which is what no
    combination of the atoms so far explains. The coefficients are those of least squares on the
    chosen atoms. A row that is explained, as one of zeros is, gets zeros for the atoms after.
    """
    m, p = wanted.shape
    chosen, used = torch.zeros(m, k, dtype=torch.long), torch.zeros(m, k, dtype=torch.bool)
    basis = torch.zeros(m, k, p)  # orthonormal, spans the chosen atoms; an unused one is zero
    unit, left = normalize(atoms), wanted.clone()
    enough = NOTHING * wanted.norm(dim=1)
    for step in range(k):
        match = (left @ unit.T).abs_().scatter_(1, chosen[:, :step], -1)
        chosen[:, step] = match.argmax(dim=1)
        direction = unit[chosen[:, step]]
        for _ in range(2):  # once leaves rounding errors of near-parallel atoms in, twice does not
            known = torch.bmm(basis[:, :step], direction[:, :, None])
            direction = direction - torch.bmm(known.mT, basis[:, :step])[:, 0]
        length = direction.norm(dim=1)
        used[:, step] = (left.norm(dim=1) > enough) & (length > NOTHING)
        basis[:, step] = torch.where(used[:, step, None], direction / length[:, None], 0)
        left -= (basis[:, step] * left).sum(dim=1, keepdim=True) * basis[:, step]
    return chosen, _least_squares(wanted.double(), atoms.double()[chosen], used).float()


def _least_squares(wanted: Tensor, chosen: Tensor, used: Tensor) -> Tensor:
    """Coefficients (m, k) of the ``chosen`` (m, k, p) whose sum is next to ``wanted`` (m, p); 0 where not ``used``."""
    chosen = chosen * used[:, :, None]
    gram = chosen @ chosen.mT + torch.diag_embed((~used).double())
    return torch.cholesky_solve(chosen @ wanted[:, :, None], torch.linalg.cholesky(gram))[:, :, 0]
