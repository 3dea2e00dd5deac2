"""Rotate one language's word vectors into another's space, and measure how well a dictionary is found there.

Orthogonal Procrustes over a bilingual dictionary (Xing et al. 2015), refined by the dictionary that the
rotation itself induces (MUSE: Conneau et al. 2018, arXiv 1710.04087). Row vectors throughout: x W ~ y.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clpds.errors import UserError
from clpds.progress import progress
from clpds.vocabulary.blocks import blocks
from clpds.vocabulary.dictionary import Pair
from clpds.vocabulary.static import StaticEmbeddings, require_same_dimension

CSLS_NEIGHBOURS = 10
FEWEST = 20  # pairs in both embeddings, below which the dictionary is taken for a mistake
FEW = 0.1  # share of the pairs in both embeddings, below which the dictionary may be of other languages,
ALIKE = 0.4  # and is, where more than this share of those pairs are the same word twice, as names are
HELD_OUT = 1500  # source words, MUSE's number; a tenth of the dictionary's at most
SEARCHED = 20_000  # words of each language among which a translation is looked for
REFINED = 15_000  # words of each language that an induced dictionary is made of, MUSE's number


@dataclass(frozen=True)
class Alignment:
    """The map from source to target space and what is known of it."""

    W: Tensor
    """(d, d) float32, orthogonal."""
    pairs: int
    """Pairs of the dictionary whose words are in both embeddings, however they are capitalised."""
    asked: int
    """Held-out source words that were looked up."""
    precision: float
    """Share of them whose nearest target word is a translation of the dictionary (cosine)."""
    precision_csls: float
    """The same by CSLS."""

    def facts(self) -> dict[str, Any]:
        """For provenance.json."""
        return {key: value for key, value in asdict(self).items() if key != "W"}


def align(
    source: StaticEmbeddings,
    target: StaticEmbeddings,
    dictionary: Sequence[Pair],
    *,
    name: Path | str,
    refinements: int = 0,
    seed: int = 0,
) -> Alignment:
    """The rotation that fits the pairs of ``dictionary`` (read from ``name``) best.

    The precision is that of a rotation from nine tenths of the dictionary's source words, the rest, chosen by
    ``seed``, being looked up; the result is fitted on all. Raises UserError where the dimensions differ, and
    where so few pairs are in both embeddings, or so few but names, that the dictionary must be of other languages.
    """
    require_same_dimension(source, target)
    found = _known(source, target, dictionary, name)
    measured = _measure(source, target, found, refinements, seed)
    W = _fit(source, target, [ids for group in found for ids in group], refinements)
    return Alignment(W, len(found), *measured)


def procrustes(x: Tensor, y: Tensor) -> Tensor:
    """The orthogonal W, (d, d) float32, with the least |x W - y|^2; ``x`` and ``y`` are (n, d), row by row alike."""
    moment = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for part in blocks(len(x), 1024):
        moment += x[part].double().T @ y[part].double()
    U, _, Vt = torch.linalg.svd(moment)
    return (U @ Vt).float()


def refine(x: Tensor, y: Tensor, W: Tensor, rounds: int) -> Tensor:
    """Procrustes again and again, over the pairs that are each other's nearest by CSLS under the last ``W``.

    ``x`` (n, d) and ``y`` (m, d) are ordered by frequency; the first 15,000 rows of each take part. The
    best W is kept, by the mean CSLS of the pairs: ``W`` itself where no round is better.
    """
    x, y = x[:REFINED], y[:REFINED]
    best, best_score = W, float("-inf")
    with progress("refining the alignment (rounds)", rounds) as advance:
        for number in range(rounds + 1):
            there, scores = best_match(x @ W, y)
            if (score := float(scores.mean())) > best_score:
                best, best_score = W, score
            if number < rounds:
                back, _ = best_match(y, x @ W)
                mutual = (back[there] == torch.arange(len(x))).nonzero()[:, 0]
                if len(mutual) == 0:
                    break
                W = procrustes(x[mutual], y[there[mutual]])
                advance(1)
    return best


def best_match(x: Tensor, y: Tensor, *, csls: bool = True, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For each row of ``x`` (or those that ``queries`` numbers) the most similar row of ``y`` and the similarity.

    CSLS (x, y) = 2 cos(x, y) - r(x) - r(y), r the mean cosine to the ten nearest of the other language: it
    takes off what makes some words everybody's neighbour. ``csls=False`` is the cosine alone.
    """
    x, y = normalize(x), normalize(y)
    crowd = _crowding(y, x) if csls else torch.zeros(len(y))
    asked = x if queries is None else x[queries]
    indices, scores = torch.empty(len(asked), dtype=torch.long), torch.empty(len(asked))
    for part in blocks(len(asked), len(y)):
        cosines = asked[part] @ y.T
        r = _nearest_mean(cosines) if csls else torch.zeros(len(cosines))
        scores[part], indices[part] = ((1 + csls) * cosines - crowd).max(dim=1)
        scores[part] -= r
    return indices, scores


def _crowding(y: Tensor, x: Tensor) -> Tensor:
    """r(y): each row's mean cosine to its ten nearest rows of ``x``; both at length 1."""
    return torch.cat([_nearest_mean(y[part] @ x.T) for part in blocks(len(y), len(x))])


def _nearest_mean(cosines: Tensor) -> Tensor:
    return cosines.topk(min(CSLS_NEIGHBOURS, cosines.shape[1])).values.mean(dim=1)


def _known(
    source: StaticEmbeddings, target: StaticEmbeddings, dictionary: Sequence[Pair], name: Path | str
) -> list[list[tuple[int, int]]]:
    """For each pair that both embeddings have, its rows in them, once for every capitalisation.

    As the published package does it: as written, in lower case and in title case, on both sides. A word
    written in lower case is there twice, which gives it weight over its title case.
    """
    found, alike = [], 0
    for source_word, target_word in dictionary:
        ids = [
            (source.index[a], target.index[b])
            for a in _cases(source_word)
            for b in _cases(target_word)
            if a in source.index and b in target.index
        ]
        if ids:
            found.append(ids)
            alike += source_word.casefold() == target_word.casefold()
    if len(found) < FEWEST or (len(found) < FEW * len(dictionary) and alike > ALIKE * len(found)):
        raise UserError(
            f"only {len(found):,} of {len(dictionary):,} pairs of {name} are in both {source.name} and {target.name}, "
            f"{alike:,} of them the same word twice; is it a dictionary of these two languages, in this order?"
        )
    return found


def _cases(word: str) -> tuple[str, str, str]:
    return word, word.lower(), word.title()


def _fit(source: StaticEmbeddings, target: StaticEmbeddings, ids: Sequence[tuple[int, int]], rounds: int) -> Tensor:
    rows = torch.tensor(ids)
    W = procrustes(source.matrix[rows[:, 0]], target.matrix[rows[:, 1]])
    return refine(source.matrix, target.matrix, W, rounds) if rounds else W


def _measure(
    source: StaticEmbeddings,
    target: StaticEmbeddings,
    found: Sequence[Sequence[tuple[int, int]]],
    rounds: int,
    seed: int,
) -> tuple[int, float, float]:
    """How many held-out source words were looked up, and the share found by cosine and by CSLS."""
    x, y = source.matrix[:SEARCHED], target.matrix[:SEARCHED]
    answers: dict[int, set[int]] = {}
    for group in found:
        for first, second in group:
            if first < len(x) and second < len(y):
                answers.setdefault(first, set()).add(second)
    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(seed))
    asked = torch.tensor(list(answers))[order][: min(HELD_OUT, max(1, len(answers) // 10))]
    hidden = set(asked.tolist())
    # A hidden word is hidden under all its capitalisations.
    seen = [ids for group in found if hidden.isdisjoint(first for first, _ in group) for ids in group]
    W = _fit(source, target, seen, rounds)
    shares = []
    for csls in (False, True):
        best, _ = best_match(x @ W, y, csls=csls, queries=asked)
        hits = [answer in answers[word] for word, answer in zip(asked.tolist(), best.tolist(), strict=True)]
        shares.append(sum(hits) / len(hits))
    return len(asked), shares[0], shares[1]
