"""Word alignments: read as other programs write them, or made here, and carried to a tokenizer's pieces."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import thot.alignment as thot

from clpds.errors import UserError
from clpds.progress import progress
from clpds.vocabulary.dictionary import LONGEST, ROUNDS
from clpds.vocabulary.words import Span

Link = tuple[int, int]
"""Places of a source and of a target word, from 0."""
_LINK = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")


def read_links(path: Path) -> Iterator[list[Link]]:
    """The links of each line, as fast_align, eflomal and their kin write them (Pharaoh format: ``0-0 1-2``).

    Raises UserError that names the line for what is no link.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            links = [_LINK.fullmatch(text) for text in line.split()]
            if None in links:
                wrong = line.split()[links.index(None)]
                raise UserError(f"{path}, line {number}: '{wrong[:40]}' is no link such as 3-4")
            yield [(int(link[1]), int(link[2])) for link in links if link]


def align_words(sentences: Sequence[tuple[list[str], list[str]]]) -> Iterator[list[Link]]:
    """Links of each pair of sentences by fast_align (Dyer et al. 2013), each target word with one source word at most.

    The model is trained when this is called. The first 200 words of a sentence take part. Equal sentences, equal links.
    """
    texts = [(source[:LONGEST], target[:LONGEST]) for source, target in sentences]
    model = thot.FastAlignModel()
    with progress("aligning words (passes)", ROUNDS) as advance:
        for source, target in texts:
            if source and target:
                model.add_sentence_pair(source, target)
        model.start_training()
        for _ in range(ROUNDS):
            model.train()
            advance(1)
        model.end_training()
    return (_best(model, source, target) if source and target else [] for source, target in texts)


def _best(model: thot.FastAlignModel, source: list[str], target: list[str]) -> list[Link]:
    matrix = model.get_best_alignment(source, target)[1].to_numpy()
    return [(int(i), int(j)) for i, j in zip(*matrix.nonzero(), strict=True)]


def align_targets(links: Sequence[Link], sources: int, targets: int) -> list[int]:
    """For each of ``targets`` words the source word that it is linked to, ``sources`` where there is none.

    Of several links to one word the last wins; one source word may be taken by several.
    """
    places = [sources] * targets
    for source, target in links:
        places[target] = source
    return places


def carry(
    links: Sequence[Link], words: tuple[list[Span], list[Span]], pieces: tuple[list[Span], list[Span]]
) -> list[int]:
    """For each target piece a source piece's place, the number of source pieces where there is none.

    The k-th piece of a target word goes with the k-th piece of the source word it is linked to, or with that
    word's last where it has fewer. ``words`` and ``pieces`` are spans of source and target; a piece belongs to the
    first word that it touches.
    """
    linked = align_targets(links, len(words[0]), len(words[1]))
    inside: list[list[int]] = [[] for _ in words[0]]
    for place, word in enumerate(_words_of(pieces[0], words[0])):
        if word is not None:
            inside[word].append(place)
    places, ranks = [], [0] * len(words[1])
    for word in _words_of(pieces[1], words[1]):
        partners = inside[linked[word]] if word is not None and linked[word] < len(words[0]) else []
        if word is None or not partners:
            places.append(len(pieces[0]))
            continue
        places.append(partners[min(ranks[word], len(partners) - 1)])
        ranks[word] += 1
    return places


def _words_of(pieces: Sequence[Span], words: Sequence[Span]) -> Iterator[int | None]:
    """The word of each piece, None for one of white space alone."""
    stops = [stop for _, stop in words]
    for start, stop in pieces:
        word = bisect_right(stops, start)
        yield word if word < len(words) and words[word][0] < max(stop, start + 1) else None
