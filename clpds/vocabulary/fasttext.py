"""The verb embeddings: train fastText vectors on raw text, by gensim, written as fastText itself writes them."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator

import datasets
from gensim.models import FastText
from gensim.models.fasttext import save_facebook_model

from clpds import provenance, recipe
from clpds.data.read import read_documents
from clpds.errors import UserError
from clpds.output import makes_folder, new_folder
from clpds.progress import progress
from clpds.vocabulary.static import FILE
from clpds.vocabulary.words import words

SENTENCE = 1000  # words: gensim drops what is beyond 10,000
NGRAMS = (3, 6)  # characters, brackets included: fastText's own
MAX_BUCKETS = 2_000_000  # fastText's own


@makes_folder
def train_embeddings(step: recipe.Embeddings) -> None:
    """Do ``clpds embeddings``: write the folder ``step.out`` with ``fasttext.bin``, which fastText and gensim open.

    Skip-gram with ten negative samples, one thread: same text, options, seed and versions give the same
    bytes. Raises UserError for text that is missing or in which no word occurs often enough.
    """
    documents = read_documents(step.input, text_key=step.text_key)
    with progress("counting words (documents)", len(documents)) as advance:
        sentences = 0
        counts: Counter[str] = Counter()
        for sentence in _sentences(documents, advance):
            counts.update(sentence)
            sentences += 1
    kept = {word: count for word, count in counts.items() if count >= step.min_count}
    if not kept:
        raise UserError(f"no word occurs {step.min_count} times in the text; lower --min-count or give more text")
    model = FastText(
        vector_size=step.dimension,
        sg=1,  # better than cbow on the few million words of a small language
        negative=10,
        min_n=NGRAMS[0],
        max_n=NGRAMS[1],
        bucket=min(MAX_BUCKETS, 4 * _count_ngrams(kept)),
        min_count=step.min_count,
        seed=step.seed,
        workers=1,  # several would write to one matrix in any order
    )
    model.build_vocab_from_freq(kept, corpus_count=sentences)
    with progress("training word embeddings (documents)", step.epochs * len(documents)) as advance:
        total = sum(counts.values())
        model.train(_Pass(documents, advance), total_examples=sentences, total_words=total, epochs=step.epochs)
    with new_folder(step.out, overwrite=step.overwrite) as folder:
        save_facebook_model(model, str(folder / FILE))
        inputs = {f"input {number}": path for number, path in enumerate(step.input, 1)}
        provenance.record(folder, step, inputs, words=len(kept), documents=len(documents))
    sys.stdout.write(f"wrote {step.out}: {len(kept):,} words, {step.dimension} dimensions\n")


class _Pass:
    """The text as gensim asks for it: something to walk through once an epoch."""

    def __init__(self, documents: datasets.Dataset, advance: Callable[[float], None]) -> None:
        self.documents, self.advance = documents, advance

    def __iter__(self) -> Iterator[list[str]]:
        return _sentences(self.documents, self.advance)


def _sentences(documents: datasets.Dataset, advance: Callable[[float], None]) -> Iterator[list[str]]:
    """The lines of all documents as lists of words."""
    for batch in documents.iter(100):
        for text in batch["text"]:
            for line in text.splitlines():
                found = words(line)
                yield from (found[start : start + SENTENCE] for start in range(0, len(found), SENTENCE))
        advance(len(batch["text"]))


def _count_ngrams(vocabulary: dict[str, int]) -> int:
    """How many different n-grams the words have: a small corpus needs no 2 million buckets."""
    shortest, longest = NGRAMS
    found: set[str] = set()
    for word in vocabulary:
        text = f"<{word}>"
        for size in range(shortest, longest + 1):
            found.update(text[start : start + size] for start in range(len(text) - size + 1))
    return len(found)
