"""A tokenizer's tokens in the space of static word embeddings."""

from collections.abc import Iterable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from clpds.progress import progress
from clpds.vocabulary.panics import no_panic
from clpds.vocabulary.pieces import pieces
from clpds.vocabulary.static import StaticEmbeddings
from clpds.vocabulary.tokenizer import rows_needed

BATCH = 10_000  # words tokenised at once


def subword_vectors(tokenizer: PreTrainedTokenizerBase, static: StaticEmbeddings) -> Tensor:
    """A vector for every token's text, (rows, d) float32; zeros for tokens that have none.

    Where ``static`` has n-grams: the word's vector, else the mean of its n-grams (fastText's own rule), without
    the space that begins a word. Else the mean of the words in whose segmentation the token occurs,
    weighted by their counts; a word is segmented twice, with a space before it and without, and counts
    twice where both contain the token. WECHSEL, section 3.
    Special tokens, parts of a UTF-8 sequence and blanks have no vector.
    """
    texts = _texts(tokenizer)
    if static.ngrams:
        found = static.of_texts(list(texts.values()))
        vectors = torch.zeros(rows_needed(tokenizer), found.shape[1])
        vectors[list(texts)] = found
        return vectors
    return _mean_of_words(tokenizer, static, set(texts))


def _texts(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id to text of the tokens that have one."""
    texts = {}
    for id_, piece in pieces(tokenizer).items():
        try:
            text = piece.bytes.decode().strip()
        except UnicodeDecodeError:
            continue
        if text:
            texts[id_] = text
    return texts


def _mean_of_words(tokenizer: PreTrainedTokenizerBase, static: StaticEmbeddings, wanted: Iterable[int]) -> Tensor:
    """Rows as above from a sparse matrix (tokens, words) of counts times the words' vectors."""
    words = list(static.index)
    tokens: list[int] = []
    columns: list[int] = []
    with progress("segmenting words", len(words)) as advance:
        for start in range(0, len(words), BATCH):
            batch = words[start : start + BATCH]
            for texts in (batch, [f" {word}" for word in batch]):
                with no_panic(tokenizer.name_or_path):
                    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
                for column, encoding in enumerate(encodings, start):
                    ids = set(encoding.ids)
                    tokens.extend(ids)
                    columns.extend([column] * len(ids))
            advance(len(batch))
    rows, keep = np.array(tokens), np.isin(tokens, list(wanted))
    rows, words_in = rows[keep], np.array(columns)[keep]
    shape = rows_needed(tokenizer), len(words)
    weights = sparse.coo_matrix((static.counts.numpy()[words_in], (rows, words_in)), shape=shape).tocsr()
    totals = np.maximum(np.asarray(weights.sum(axis=1)), np.finfo(np.float64).tiny)
    return torch.from_numpy((weights @ static.matrix.numpy() / totals).astype(np.float32))
