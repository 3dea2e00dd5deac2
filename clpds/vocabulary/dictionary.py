"""Bilingual dictionaries: reading them as MUSE and WECHSEL write them, and inducing one from parallel text.

One pair of words a line, the source language's first, with a tab or a space between them. A word with several
translations has several lines.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import thot.alignment as thot

from clpds import recipe
from clpds.bounds import LINE
from clpds.errors import UserError
from clpds.output import makes_file, write_file
from clpds.progress import progress
from clpds.vocabulary.words import words

Pair = tuple[str, str]
ROUNDS = 5  # of expectation maximisation, fast_align's own number
LONGEST = 200  # words: thot aligns no longer sentence
LINKS = 2  # how often two words must be aligned to be a translation


def read_dictionary(path: Path) -> list[Pair]:
    """The pairs of ``path`` in order. Raises UserError that names the line for one that is no pair, or no UTF-8."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    pairs = []
    for number, text in _lines(path):
        columns = text.split("\t") if "\t" in text else text.split()
        pair = [column.strip() for column in columns]
        if len(pair) != 2 or not all(pair):
            raise UserError(f"{path}, line {number}: expected two words with a tab or a space between them")
        pairs.append((pair[0], pair[1]))
    if not pairs:
        raise UserError(f"{path} is empty; expected two words a line")
    return pairs


@makes_file
def induce_dictionary(step: recipe.Dictionary) -> None:
    """Do ``clpds dictionary``: align the words of parallel text and write those that are each other's translation.

    Raises UserError for files of different length, for lines that are no pair, and where no two words
    are aligned often enough.
    """
    sentences = list(read_parallel(step.parallel))
    pairs = translations(sentences)
    if not pairs:
        raise UserError(f"no two words of {step.parallel[0]} are aligned {LINKS} times; are its lines translations?")
    text = "".join(f"{source}\t{target}\n" for source, target in pairs)
    write_file(step.out, text.encode(), overwrite=step.overwrite)
    sys.stdout.write(f"wrote {step.out}: {len(pairs):,} pairs from {len(sentences):,} sentences\n")


def read_parallel(paths: Sequence[Path]) -> Iterator[Pair]:
    """Sentence pairs, source first: lines of one file with a tab in each, or of two files that run in step."""
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} does not exist")
    if len(paths) == 1:
        for number, text in _lines(paths[0]):
            columns = text.split("\t")
            if len(columns) != 2:
                raise UserError(f"{paths[0]}, line {number}: expected two sentences with a tab between them")
            yield columns[0], columns[1]
        return
    source, target = ([text for _, text in _lines(path, blank=True)] for path in paths)
    if len(source) != len(target):
        raise UserError(
            f"{paths[0]} has {len(source):,} lines and {paths[1]} {len(target):,}; line by line, "
            "one must be the other's translation"
        )
    yield from zip(source, target, strict=True)


def translations(sentences: Sequence[Pair]) -> list[Pair]:
    """Words that are most often aligned with each other, by how often they are, then alphabetically.

    Sentences are aligned by fast_align (Dyer et al. 2013) in both directions, and what both agree on counts.
    """
    texts = [(words(source)[:LONGEST], words(target)[:LONGEST]) for source, target in sentences]
    texts = [(source, target) for source, target in texts if source and target]
    with progress("aligning words (passes)", 2 * (ROUNDS + 1)) as advance:
        models = [thot.FastAlignModel(), thot.FastAlignModel()]
        for source, target in texts:
            models[0].add_sentence_pair(source, target)
            models[1].add_sentence_pair(target, source)
        for model in models:
            model.start_training()
            for _ in range(ROUNDS):
                model.train()
                advance(1)
            model.end_training()
        aligner = thot.SymmetrizedAligner(*models)
        aligner.heuristic = thot.SymmetrizationHeuristic.INTERSECTION
        links: Counter[Pair] = Counter()
        for source, target in texts:
            matrix = aligner.get_best_alignment(source, target)[1].to_numpy()
            links.update((source[i], target[j]) for i, j in zip(*matrix.nonzero(), strict=True))
        advance(2)
    ordered = sorted(links.items(), key=lambda link: (-link[1], link[0]))
    best: tuple[dict[str, str], dict[str, str]] = {}, {}
    for (source_word, target_word), _ in ordered:
        best[0].setdefault(source_word, target_word)
        best[1].setdefault(target_word, source_word)
    mutual = best[0].items() & {(source, target) for target, source in best[1].items()}
    return [pair for pair, count in ordered if count >= LINKS and pair in mutual]


def _lines(path: Path, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and texts of the lines; without the blank ones unless ``blank``."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE + 1), b""), 1):
            if len(line) > LINE:
                raise UserError(f"{path}, line {number} is over {LINE:,} bytes long; is it a text file?")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                why = f"{path}, line {number} is not valid UTF-8 ({error.reason}); convert it first"
                raise UserError(why) from error
            if blank or text.strip():
                yield number, text
