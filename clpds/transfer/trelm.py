"""TreLM's rows: static vectors of the joint vocabulary's tokens, turned into the space of the source's rows.

Li et al. 2021, *Cross-lingual Transferring of Pre-trained Contextualized Language Models*, arXiv 2107.12627.
``docs/methods/trelm.md`` has the maths.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from clpds.errors import UserError
from clpds.transfer.baselines import drawn
from clpds.transfer.vocabulary_swap import Role, Rows
from clpds.vocabulary.adversarial import Unsupervised, align_adversarially
from clpds.vocabulary.alignment import procrustes
from clpds.vocabulary.overlap import Overlap

FEWEST = 20  # shared tokens with a vector, below which a rotation says nothing
Rotation = Callable[[Tensor], Tensor]
"""The source's matrix (V_s, d), float32 -> an orthogonal W (d, d) that turns vectors x into its space, x W."""


def aligned_rows(shared: Overlap, special: dict[int, int], vectors: Tensor, rotation: Rotation, seed: int) -> Rows:
    """Every row x_t W with the static ``vectors`` x, (V_t, d); shared tokens' own rows are not kept.

    Special tokens (``special``: target id to source id), which stand in no text, are copied; a token
    without a vector is drawn as in ``overlap_rows``. Biases are the source's mean.
    """
    placed = vectors.any(dim=1)
    targets, sources = (torch.tensor(list(ids), dtype=torch.long) for ids in (special.keys(), special.values()))

    def rows(source: Tensor, role: Role) -> Tensor:
        width = vectors.shape[1]
        W = rotation(source[:, :width].float())
        new = drawn(source, shared.rows, role, seed)
        new[placed, :width] = (vectors[placed] @ W).to(source.dtype)
        new[:, width:] = source[:, width:].mean(dim=0, dtype=torch.float32).to(source.dtype)
        new[targets] = source[sources]
        return new

    return rows


def by_shared_tokens(shared: Overlap, vectors: Tensor) -> Rotation:
    """The rotation that brings the vectors of shared tokens nearest to their rows; UserError where they are few."""
    pairs = vectors.any(dim=1)[shared.target]
    if int(pairs.sum()) < FEWEST:
        raise UserError(
            f"only {int(pairs.sum())} tokens of the text are tokens of the source too; is its language in --text?"
        )
    return lambda matrix: procrustes(vectors[shared.target[pairs]], matrix[shared.source[pairs]])


def by_shape(
    vectors: Tensor, counts: tuple[Tensor, Tensor], seed: int, tell: Callable[[Unsupervised], None]
) -> Rotation:
    """The rotation that is found without a pair, from the shapes of the two spaces, as the paper does.

    ``counts`` say how often each target and each source id, (V_t,) and (V_s,), stands in the text: tokens that do not
    are left out, and the others ordered by them. ``tell`` is told of what was found.
    """
    ours, theirs = (count.argsort(descending=True, stable=True)[: int((count > 0).sum())] for count in counts)

    def rotation(matrix: Tensor) -> Tensor:
        found = align_adversarially(vectors[ours], matrix[theirs], seed=seed)
        tell(found)
        return found.W

    return rotation
