"""From raw text: tokenizer, word embeddings, dictionary, packed blocks, aligned pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from clpds.recipe.fields import Amount, Checked, Count, Files, MaybeCount, MaybePath, MaybeText

Parallel = Annotated[tuple[Path, ...], Field(min_length=1, max_length=2)]


@dataclass(frozen=True, kw_only=True)
class Tokenizer(Checked):
    """Train a tokenizer on raw text."""

    input: Files
    """Text, JSONL or Parquet files, plain or compressed."""
    kind: Literal["bpe", "unigram", "wordpiece"] = "bpe"
    """Byte-level BPE (GPT-2, Llama 3), SentencePiece-like unigram (T5, XLM-R) or WordPiece (BERT)."""
    vocab_size: Count = 32_000
    """Number of tokens, special tokens included."""
    text_key: str = "text"
    """Field that holds the text in JSONL and Parquet files."""
    out: Path
    """Folder to write; AutoTokenizer.from_pretrained opens it."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


@dataclass(frozen=True, kw_only=True)
class Embeddings(Checked):
    """Train static word embeddings (fastText) on raw text, for init --method wechsel."""

    input: Files
    """Text, JSONL or Parquet files, plain or compressed."""
    dimension: Count = 100
    """Numbers in a word's vector; the same for both languages."""
    epochs: Count = 5
    """Passes over the text."""
    min_count: Count = 5
    """Leave out words that occur less often."""
    text_key: str = "text"
    """Field that holds the text in JSONL and Parquet files."""
    out: Path
    """Folder to write, with fasttext.bin."""
    seed: int = 0
    """For the first vectors and the negative samples."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


@dataclass(frozen=True, kw_only=True)
class Dictionary(Checked):
    """Make a bilingual dictionary out of parallel text, for init --method wechsel."""

    parallel: Parallel
    """Two text files whose lines are translations, source language first; or one with a tab in every line."""
    out: Path
    """Text file to write: a pair of words a line, the most frequent first."""
    overwrite: bool = False
    """Replace the output file if it exists."""


@dataclass(frozen=True, kw_only=True)
class Data(Checked):
    """Tokenise and pack raw text into memory-mapped blocks."""

    input: Files
    """Text, JSONL or Parquet files (plain or compressed), or folders saved by `datasets`."""
    tokenizer: Path
    """Folder of the tokenizer, or of a model that has one."""
    sequence_length: Count
    """Tokens in a block."""
    out: Path
    """Folder to write, with the splits train/ and validation/."""
    text_key: str = "text"
    """Field that holds the text in JSONL, Parquet and `datasets` inputs."""
    label_key: MaybeText = None
    """Field that holds each text's class: a text a block then, for the objective classification."""
    sample_by: Literal["line", "paragraph", "document"] = "line"
    """What one document is in a text file, as `datasets` calls it."""
    one_document: bool = False
    """Start each document in a block of its own, padded at the end, for models that cannot keep packed ones apart."""
    validation_fraction: Amount = 0.01
    """Share of the documents held out, chosen by a hash of their text."""
    workers: MaybeCount = None
    """Processes to tokenise with (each rank, under MPI); all cores unless told. The output does not depend on it."""
    only: MaybeText = None
    """Part of the work, for an array of jobs: `read` first, then 1/N to N/N in any order; without it what is left."""
    seed: int = 0
    """Chooses which documents are held out."""
    overwrite: bool = False
    """Replace the output folder if it exists."""

    @model_validator(mode="after")
    def _labelled_at_once(self) -> Self:
        if self.label_key is not None and (self.only or self.workers or self.sample_by != Data.sample_by):
            raise ValueError("labelled texts are prepared at once; leave out only, workers and sample_by")
        return self


@dataclass(frozen=True, kw_only=True)
class Pairs(Checked):
    """Align parallel text word by word: sentence pairs for a TRILayer model, which reads one and writes the other."""

    parallel: Parallel
    """Two text files whose lines are translations, source language first; or one with a tab in every line."""
    tokenizer: Path
    """Folder of the joint tokenizer, or of a model that has it."""
    sequence_length: Count
    """Longest sentence in tokens; pairs with a longer one are left out."""
    out: Path
    """Folder to write, with the splits train/ and validation/."""
    reverse: bool = False
    """Read the second language and write the first."""
    alignments: MaybePath = None
    """Word alignments of another program, links i-j a line (Pharaoh format); made by fast_align unless told."""
    validation_fraction: Amount = 0.01
    """Share of the pairs held out, chosen by a hash of the first language's text."""
    seed: int = 0
    """Chooses which pairs are held out."""
    overwrite: bool = False
    """Replace the output folder if it exists."""
