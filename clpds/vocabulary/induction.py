"""A first map from the shape of two spaces alone, and the induction of pairs that makes a map of it.

Artetxe, Labaka and Agirre 2018, arXiv 1805.06297. Rows are vectors at length 1, centred; x W ~ y.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clpds.progress import progress
from clpds.vocabulary.alignment import CSLS_NEIGHBOURS, procrustes

KEPT = 0.1  # share of the similarities that the first rounds see
PATIENCE = 10  # rounds without a better map, after which twice as many are seen
ROUNDS = 400  # at most; some 200 are usual
GAIN = 1e-5  # of the criterion, below which a map is no better


def first_map(x: Tensor, y: Tensor) -> Tensor:
    """The rotation that fits rows with the same signature, (d, d); ``x`` and ``y`` are (n, d).

    A row's signature is its similarities to all rows of its own space in order of size: the same for a
    word and its translation where the spaces are rotations of each other.
    """
    return _fit(x, y, _csls(_signatures(x) @ _signatures(y).T))


def induce(x: Tensor, y: Tensor, W: Tensor, what: str) -> Tensor:
    """Match, fit, match again, until no map is better; of all maps the one with the best mean CSLS.

    Each round sees a part of the similarities only, drawn from torch's global generator: that brings it
    out of maps which merely confirm themselves. The part grows to all of them.
    """
    best, best_score, kept, stale = W, float("-inf"), KEPT, 0
    with progress(f"{what} (rounds)", ROUNDS) as advance:
        for _ in range(ROUNDS):
            similar = _csls(normalize(x @ W) @ y.T)
            score = float(similar.amax(dim=1).mean() + similar.amax(dim=0).mean()) / 2
            stale = 0 if score > best_score + GAIN else stale + 1
            if stale == 0:
                best, best_score = W, score
            elif stale == PATIENCE and kept == 1:
                break
            elif stale == PATIENCE:
                kept, stale = min(1.0, 2 * kept), 0
            if kept < 1:
                similar.masked_fill_(torch.rand_like(similar) > kept, float("-inf"))
            W = _fit(x, y, similar)
            advance(1)
    return best


def _fit(x: Tensor, y: Tensor, similar: Tensor) -> Tensor:
    """The rotation that fits each row of either side and what is most similar to it, by ``similar`` (n, m)."""
    there, back = similar.argmax(dim=1), similar.argmax(dim=0)
    return procrustes(torch.cat([x, x[back]]), torch.cat([y[there], y]))


def _csls(cosines: Tensor) -> Tensor:
    """All of CSLS, for (n, m) cosines."""
    k = min(CSLS_NEIGHBOURS, *cosines.shape)
    r_x, r_y = (cosines.topk(k, dim=dim).values.mean(dim=dim, keepdim=True) for dim in (1, 0))
    return 2 * cosines - r_x - r_y


def _signatures(x: Tensor) -> Tensor:
    """(n, n): sorted rows of the square root of x x^T, centred and at length 1."""
    U, S, _ = torch.linalg.svd(x, full_matrices=False)
    ordered = normalize(((U * S) @ U.T).sort(dim=1).values)
    return normalize(ordered - ordered.mean(dim=0))
