"""TreLM's rows: static vectors of the joint vocabulary's tokens, turned into the space of the source's rows.

Li et al. 2021, *Cross-lingual Transferring of Pre-trained Contextualized Language Models*, arXiv 2107.12627.
``docs/methods/trelm.md`` has the maths.
"""

import torch
from torch import Tensor

from clpds.errors import UserError
from clpds.transfer.baselines import drawn
from clpds.transfer.vocabulary_swap import Role, Rows
from clpds.vocabulary.alignment import procrustes
from clpds.vocabulary.overlap import Overlap

FEWEST = 20  # shared tokens with a vector, below which a rotation says nothing


def aligned_rows(shared: Overlap, special: dict[int, int], vectors: Tensor, seed: int) -> Rows:
    """Every row x_t W with the static ``vectors`` x, (V_t, d), W orthogonal; shared tokens' own rows are not kept.

    W is the rotation that brings the vectors of shared tokens nearest to their source rows. Special tokens
    (``special``: target id to source id), which stand in no text, are copied; a token without a vector is
    drawn as in ``overlap_rows``. Biases are the source's mean.
    """
    placed = vectors.any(dim=1)
    pairs = placed[shared.target]

    def rows(source: Tensor, role: Role) -> Tensor:
        width = vectors.shape[1]
        anchors = source[shared.source[pairs], :width].float()
        W = procrustes(vectors[shared.target[pairs]], anchors)
        new = drawn(source, shared.rows, role, seed)
        new[placed, :width] = (vectors[placed] @ W).to(source.dtype)
        new[:, width:] = source[:, width:].mean(dim=0, dtype=torch.float32).to(source.dtype)
        new[torch.tensor(list(special), dtype=torch.long)] = source[
            torch.tensor(list(special.values()), dtype=torch.long)
        ]
        return new

    if int(pairs.sum()) < FEWEST:
        raise UserError(
            f"only {int(pairs.sum())} tokens of the text are tokens of the source too; is its language in --text?"
        )
    return rows
