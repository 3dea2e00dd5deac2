"""Orthogonal matching pursuit: a missing token as a sparse combination of shared ones.

Goddard & Fernandes Neto 2025, *Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit*,
arXiv 2506.06607. ``docs/methods/omp.md`` has the maths, and why the rows are centred here.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clpds.progress import progress
from clpds.transfer.vocabulary_swap import Role, Rows
from clpds.vocabulary.blocks import blocks
from clpds.vocabulary.overlap import Overlap

NOTHING = 1e-5  # relative length below which float32 has no digits left


def omp(shared: Overlap, helper: Mapping[Role, Tensor], sparsity: int, *, centered: bool = True) -> Rows:
    """The overlap's rows copied, each missing one k source rows of the overlap with the helper's coefficients.

    h_t ~ sum_i x_i h_{o_i} with k = ``sparsity`` shared tokens o_i, then e_t = sum_i x_i s_{o_i}; ``centered`` means
    that all rows are taken less the overlap's mean, which is added to e_t in the end. ``helper`` has the helper's
    matrix for each role, (V_h, p).
    """

    def rows(source: Tensor, role: Role) -> Tensor:
        h, s_o = helper[role], source[shared.source]
        new = torch.empty(shared.rows, source.shape[1], dtype=source.dtype)
        new[shared.target] = s_o
        (made,) = combinations(h[shared.missing], h[shared.target], s_o, [sparsity], centered=centered)
        new[shared.missing] = made.to(source.dtype)
        return new

    return rows


def combinations(
    wanted: Tensor, atoms: Tensor, source: Tensor, sparsities: Sequence[int], *, centered: bool = True
) -> list[Tensor]:
    """Rows like ``source`` (n, d) for ``wanted`` (m, p) by each number k of ``atoms`` (n, p): (m, d) float32 each.

    The search is greedy, so that one with the largest k has found those of all others.
    """
    wanted, atoms = wanted.float(), atoms.float()
    mean = torch.zeros(source.shape[1])
    if centered:
        wanted, atoms = wanted - atoms.mean(dim=0), atoms - atoms.mean(dim=0)
        mean = source.mean(dim=0, dtype=torch.float32)
    made = [torch.empty(len(wanted), source.shape[1]) for _ in sparsities]
    most = min(max(sparsities), *atoms.shape)
    with progress("matching pursuit (new tokens)", len(wanted)) as advance:
        for part in blocks(len(wanted), max(len(atoms), most * max(atoms.shape[1], source.shape[1]))):
            chosen, used = pursue(wanted[part], atoms, most)
            for k, rows in zip(sparsities, made, strict=True):
                x = coefficients(wanted[part], atoms[chosen[:, :k]], used[:, :k])
                rows[part] = mean + torch.einsum("mk,mkd->md", x, source[chosen[:, :k]].float() - mean)
            advance(len(chosen))
    return made


def pursue(wanted: Tensor, atoms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """k ``atoms`` (n, p) for each row of ``wanted`` (m, p), and which are of use: (m, k) int64, (m, k) bool.

    Greedy: k times the atom with the largest |cosine| to what is left of the row, which is what no
    combination of the atoms so far explains. Once nothing is left, further atoms are of no use.
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
    return chosen, used


def coefficients(wanted: Tensor, chosen: Tensor, used: Tensor) -> Tensor:
    """The x (m, k) with the least |sum_i x_i chosen_i - wanted|, for ``chosen`` (m, k, p); 0 where not ``used``."""
    atoms = chosen.double() * used[:, :, None]
    gram = atoms @ atoms.mT + torch.diag_embed((~used).double())
    return torch.cholesky_solve(atoms @ wanted.double()[:, :, None], torch.linalg.cholesky(gram))[:, :, 0].float()
