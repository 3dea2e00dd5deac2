"""Static vectors of a tokenizer's tokens, trained on text that it has cut: what FOCUS compares tokens by, and
what TreLM turns into rows.
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from gensim.models import FastText
from gensim.models.callbacks import CallbackAny2Vec
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from clpds.errors import UserError
from clpds.progress import progress
from clpds.vocabulary.panics import no_panic
from clpds.vocabulary.tokenizer import rows_needed, token_ids

NEGATIVE, BUCKETS = 10, 200_000  # both papers' samples; for n-grams, fewer than fastText's own 2 million
SENTENCE = 1000  # tokens: gensim drops what is beyond 10,000


@dataclass(frozen=True)
class Settings:
    """How fastText is trained."""

    dimensions: int
    epochs: int
    min_count: int
    skip_gram: bool


FOCUS = Settings(dimensions=100, epochs=3, min_count=10, skip_gram=False)  # as the authors' package has it


def trelm(dimensions: int) -> Settings:
    """As TreLM's authors train vectors of the model's width; a token that occurs at all has one."""
    return Settings(dimensions, epochs=10, min_count=1, skip_gram=True)


def token_vectors(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, settings: Settings, seed: int) -> Tensor:
    """Static vectors of ``tokenizer``'s tokens by fastText on ``texts`` cut by it: (V_t, dimensions) float32.

    Zero for tokens that occur too rarely. One thread and a seed: equal texts, equal vectors. Raises UserError
    where no token occurs often enough.
    """
    with tempfile.TemporaryDirectory(prefix="clpds-focus-") as folder:
        corpus = Path(folder) / "tokens.txt"
        with corpus.open("w", encoding="utf-8") as file:
            for text in texts:
                with no_panic(tokenizer.name_or_path):
                    tokens = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).tokens
                for start in range(0, len(tokens), SENTENCE):
                    file.write(" ".join(tokens[start : start + SENTENCE]) + "\n")
        model = FastText(
            vector_size=settings.dimensions, sg=int(settings.skip_gram), negative=NEGATIVE,
            min_count=settings.min_count, bucket=BUCKETS,
            alpha=0.05, sample=1e-4, workers=1, seed=seed,
        )  # fmt: skip
        model.build_vocab(corpus_file=str(corpus))
        if not len(model.wv):
            raise UserError(f"no token occurs {settings.min_count} times in the text; pass more of it to --text")
        with progress("training token vectors (epochs)", settings.epochs) as advance:
            model.train(
                corpus_file=str(corpus),
                total_examples=model.corpus_count,
                total_words=model.corpus_total_words,
                epochs=settings.epochs,
                callbacks=[_Epochs(advance)],
            )
    vectors = torch.zeros(rows_needed(tokenizer), settings.dimensions)
    for token, id_ in token_ids(tokenizer).items():
        if token in model.wv.key_to_index:
            vectors[id_] = torch.tensor(model.wv[token])
    return vectors


def token_counts(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """How often each id stands in ``texts`` cut by ``tokenizer``: (V,) int64."""
    counts = torch.zeros(rows_needed(tokenizer), dtype=torch.int64)
    for text in texts:
        with no_panic(tokenizer.name_or_path):
            found = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        ids = torch.tensor(found, dtype=torch.int64)
        counts.index_add_(0, ids, torch.ones_like(ids))
    return counts


class _Epochs(CallbackAny2Vec):  # type: ignore[misc]  # gensim has no types
    """gensim's way to be told that an epoch is over."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self.advance = advance

    def on_epoch_end(self, model: FastText) -> None:
        self.advance(1)
