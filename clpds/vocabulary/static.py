"""Static word embeddings: a vector a word, whatever stands around it. Reads what others and ``clpds embeddings`` write.

| file | what it has |
|---|---|
| fastText ``.bin`` (or ``.bin.gz``) | words with counts, and vectors of character n-grams for words it never saw |
| word2vec text, ``.vec`` or ``.txt`` (or ``.gz``) | words only; the first line is their number and dimension |

Nothing is unpickled: gensim's own format is not read.
"""

import gzip
import struct
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from clpds.bounds import UNPACKED, VECTOR_LINE
from clpds.errors import UserError
from clpds.progress import progress
from clpds.refusals import require_given

if TYPE_CHECKING:  # gensim is imported where a file is read: its second is nothing to methods without word embeddings
    from gensim.models import KeyedVectors

FILE = "fasttext.bin"  # in a folder that `clpds embeddings` wrote
MAGIC = struct.pack("<i", 793712314)  # how fastText's own files begin


@dataclass(frozen=True)
class Ngrams:
    """fastText's vectors of character n-grams, hashed into buckets."""

    vectors: np.ndarray
    """(buckets, d) float32."""
    shortest: int
    """Characters, the brackets counted that fastText puts around a word."""
    longest: int

    def mean(self, text: str) -> np.ndarray:
        """The mean of the text's n-grams, (d,) float32; zeros where it is too short to have one."""
        from gensim.models.fasttext import ft_ngram_hashes

        hashes = ft_ngram_hashes(text, self.shortest, self.longest, len(self.vectors))
        return self.vectors[hashes].mean(axis=0) if hashes else np.zeros(self.vectors.shape[1], np.float32)


@dataclass(frozen=True)
class StaticEmbeddings:
    """Words and their vectors, the most frequent first."""

    name: str
    """What was opened, for messages."""
    index: dict[str, int]
    """Word to row, in the order of the rows."""
    matrix: Tensor
    """(n, d) float32; with n-grams, a word's row is the mean of its own vector and its n-grams', as in fastText."""
    counts: Tensor
    """(n,) float64: how often each word occurs; 1 / rank (Zipf) where the file does not say."""
    ngrams: Ngrams | None = None

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """(len(texts), d) float32: the word's row, else the mean of its n-grams, else zeros."""
        vectors = torch.zeros(len(texts), self.matrix.shape[1])
        for row, text in enumerate(texts):
            if (known := self.index.get(text)) is not None:
                vectors[row] = self.matrix[known]
            elif self.ngrams and text:
                vectors[row] = torch.from_numpy(self.ngrams.mean(text))
        return vectors


def read_static(path: Path, *, limit: int | None = None) -> StaticEmbeddings:
    """Open ``path``, a file as above or a folder that ``clpds embeddings`` wrote, with its first ``limit`` words.

    A fastText file is read whole: words and n-grams, three times its matrix of words at the peak. Text takes
    4 bytes a number of the words that are kept. Raises UserError where the file is missing, empty, damaged,
    of another kind, or holds NaN or infinity.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path} does not exist" if file == path else f"{path} has no {FILE}; expected word embeddings")
    try:
        with progress(f"reading {path}", 1) as advance:
            read = _read_fasttext if _begins(file, len(MAGIC)) == MAGIC else _read_text
            found = replace(read(file, limit), name=str(path))
            advance(1)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{file} does not fit into memory; read fewer words (--max-words) of its .vec file") from error
    except Exception as error:  # gensim's readers check little, so damage shows as any error
        require_given(file, error)
        raise UserError(f"{file} is no word embeddings that can be read: {' '.join(str(error).split())}") from error
    if not found.index:
        raise UserError(f"{file} holds no words")
    if not bool(found.matrix.isfinite().all()):
        row = int((~found.matrix.isfinite().all(dim=1)).nonzero()[0])
        raise UserError(f"{file}: the vector of {list(found.index)[row]!r} holds NaN or infinity")
    return found


def require_same_dimension(source: StaticEmbeddings, target: StaticEmbeddings) -> None:
    """Raise UserError that names both unless their vectors can be rotated into each other."""
    ours, theirs = target.matrix.shape[1], source.matrix.shape[1]
    if ours != theirs:
        raise UserError(
            f"{source.name} has {theirs} dimensions and {target.name} {ours}; train both with the same --dimension"
        )


def _read_fasttext(file: Path, limit: int | None) -> StaticEmbeddings:
    from gensim.models.fasttext import FastTextKeyedVectors, load_facebook_vectors

    vectors = cast(FastTextKeyedVectors, load_facebook_vectors(str(file)))
    ngrams = Ngrams(vectors.vectors_ngrams, vectors.min_n, vectors.max_n) if vectors.bucket else None
    counts = torch.from_numpy(np.asarray(vectors.expandos["count"], dtype=np.float64))
    return _of(vectors, counts, file, limit, ngrams)


def _read_text(file: Path, limit: int | None) -> StaticEmbeddings:
    """A word and its numbers a line, as fastText writes them.

    The numbers stand last, so a word may have spaces. Of a word that stands twice the first vector counts; bytes that
    are no UTF-8 are no word of a text. Both are left out, and stderr says how many.
    """
    with _open(file) as stream:
        header = stream.readline(100).split()
        if not header:
            raise UserError(f"{file} is empty; expected word embeddings")
        if len(header) != 2 or not all(part.isdigit() for part in header):
            raise UserError(
                f"{file} is no word embeddings: expected a fastText .bin, or text whose first line is the number "
                "of words and the dimension"
            )
        lines, dimension = int(header[0]), int(header[1])
        # A number takes a digit and a space.
        if 2 * lines * dimension > file.stat().st_size * (UNPACKED if file.suffix == ".gz" else 1):
            raise UserError(
                f"{file} is cut short: its first line promises {lines:,} words of {dimension:,} numbers; "
                "download it again"
            )
        wanted = lines if limit is None else min(lines, limit)
        index: dict[str, int] = {}
        vectors, odd = np.empty((wanted, dimension), np.float32), Counter[str]()
        for number in range(2, lines + 2):
            if len(index) == wanted:
                break
            parts = stream.readline(VECTOR_LINE).rsplit(None, dimension)
            if len(parts) <= dimension:
                raise _odd_line(file, number, dimension, parts)
            try:
                vectors[len(index)] = parts[1:]
            except ValueError as error:
                raise _odd_line(file, number, dimension, parts) from error
            try:
                word = parts[0].decode()
            except UnicodeDecodeError:
                odd["are no UTF-8"] += 1
                continue
            if not np.isfinite(vectors[len(index)]).all():
                raise UserError(f"{file}, line {number}: the vector of {word!r} holds NaN or infinity")
            if word in index:
                odd["stand there again"] += 1
                continue
            index[word] = len(index)
            odd["end in a number"] += _ends_in_a_number(word)
    if index and odd.pop("end in a number") == len(index):
        raise UserError(f"{file}, line 2: more than {dimension} numbers, which is the dimension that line 1 says")
    if left_out := " and ".join(f"{count:,} {what}" for what, count in sorted(odd.items())):
        sys.stderr.write(f"{file}: words are left out: {left_out}\n")
    matrix = torch.from_numpy(vectors[: len(index)])
    return StaticEmbeddings(str(file), index, matrix, 1 / torch.arange(1, len(index) + 1, dtype=torch.float64))


def _odd_line(file: Path, number: int, dimension: int, parts: list[bytes]) -> UserError:
    if not parts:
        return UserError(
            f"{file}, line {number}: nothing there, but line 1 says that there are more words; get it again"
        )
    return UserError(f"{file}, line {number}: expected a word and {dimension} numbers, got {_shown(parts)!r}")


def _shown(parts: list[bytes]) -> str:
    return b" ".join(parts).decode(errors="replace")[:60]


def _ends_in_a_number(word: str) -> bool:
    """Whether a number that belongs to the vector may have been taken for a part of the word."""
    try:
        float(word.rpartition(" ")[2])
    except ValueError:
        return False
    return " " in word


def _of(
    vectors: "KeyedVectors", counts: Tensor, file: Path, limit: int | None, ngrams: Ngrams | None
) -> StaticEmbeddings:
    matrix = torch.from_numpy(vectors.vectors[:limit])
    index = {word: row for row, word in enumerate(vectors.index_to_key[:limit])}
    return StaticEmbeddings(str(file), index, matrix, counts[:limit], ngrams)


def _begins(file: Path, count: int) -> bytes:
    with _open(file) as stream:
        return stream.read(count)


def _open(file: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(file) if file.suffix == ".gz" else file.open("rb"))
