"""Text to prepare: the Bible versions that the demo reads too, over and over, never twice the same."""

import json
from pathlib import Path

from benchmarks.costs import clpds, cost_of
from clpds.data.samples import VERSIONS, chapters


def write_corpus(folder: Path, megabytes: int) -> Path:
    """A JSON Lines file of so many MB of UTF-8 text, a document a chapter, in ten languages; made once.

    In the n-th copy every seventh word is turned by n letters: a tokenizer remembers words, and would find all
    words of plain copies in its memory.
    """
    file = folder / f"text-{megabytes}MB.jsonl"
    if file.is_file():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    partial, written, copy = file.with_suffix(".partial"), 0, 0
    with partial.open("w", encoding="utf-8") as stream:
        while written < megabytes * 10**6:
            for language, versions in VERSIONS.items():
                for version in range(len(versions)):
                    for verses in chapters(language, version).values():
                        text = "\n".join(_turned(verse, copy) for verse in verses)
                        if written < megabytes * 10**6:
                            stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                            written += len(text.encode())
            copy += 1
    partial.replace(file)
    return file


def train_tokenizer(corpus: Path, size: int) -> Path:
    """A byte-level BPE of so many tokens, trained on a corpus; made once."""
    folder = corpus.with_name(f"{corpus.stem}-tokenizer-{size}")
    if not folder.is_dir():
        cost_of(clpds("tokenizer", "--input", corpus, "--vocab-size", str(size), "--out", folder))
    return folder


def _turned(verse: str, copy: int) -> str:
    words = verse.split(" ")
    for place in range(copy % 7, len(words), 7) if copy else ():
        word = words[place]
        by = copy % (len(word) or 1)
        words[place] = word[by:] + word[:by]
    return " ".join(words)
