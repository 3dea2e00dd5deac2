"""Static vectors of a tokenizer's tokens, trained on text that it has cut: what FOCUS compares tokens by."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from gensim.models import FastText
from gensim.models.callbacks import CallbackAny2Vec
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from clpds.errors import UserError
from clpds.progress import progress
from clpds.vocabulary.tokenizer import rows_needed, token_ids

# What the FOCUS authors' package takes, but for the buckets of character n-grams (2 million, 800 MB, there).
DIMENSIONS, EPOCHS, NEGATIVE, MIN_COUNT, BUCKETS = 100, 3, 10, 10, 200_000
SENTENCE = 1000  # tokens: gensim drops what is beyond 10,000


def token_vectors(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, seed: int) -> Tensor:
    """Static vectors of ``tokenizer``'s tokens by fastText (CBOW) on ``texts`` cut by it: (V_t, 100) float32.

    Zero for tokens that occur fewer than ten times. One thread and a seed: equal texts, equal vectors.
    Raises UserError where no token occurs that often.
    """
    with tempfile.TemporaryDirectory(prefix="clpds-focus-") as folder:
        corpus = Path(folder) / "tokens.txt"
        with corpus.open("w", encoding="utf-8") as file:
            for text in texts:
                tokens = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).tokens
                for start in range(0, len(tokens), SENTENCE):
                    file.write(" ".join(tokens[start : start + SENTENCE]) + "\n")
        model = FastText(
            vector_size=DIMENSIONS, sg=0, negative=NEGATIVE, min_count=MIN_COUNT, bucket=BUCKETS,
            alpha=0.05, sample=1e-4, workers=1, seed=seed,
        )  # fmt: skip
        model.build_vocab(corpus_file=str(corpus))
        if not len(model.wv):
            raise UserError(f"no token occurs {MIN_COUNT} times in the text; pass more of it to --text")
        with progress("training token vectors (epochs)", EPOCHS) as advance:
            model.train(
                corpus_file=str(corpus),
                total_examples=model.corpus_count,
                total_words=model.corpus_total_words,
                epochs=EPOCHS,
                callbacks=[_Epochs(advance)],
            )
    vectors = torch.zeros(rows_needed(tokenizer), DIMENSIONS)
    for token, id_ in token_ids(tokenizer).items():
        if token in model.wv.key_to_index:
            vectors[id_] = torch.tensor(model.wv[token])
    return vectors


class _Epochs(CallbackAny2Vec):  # type: ignore[misc]  # gensim has no types
    """gensim's way to be told that an epoch is over."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self.advance = advance

    def on_epoch_end(self, model: FastText) -> None:
        self.advance(1)
