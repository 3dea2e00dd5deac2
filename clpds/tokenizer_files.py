"""The files of a tokenizer's or a model's folder, told apart and copied without opening them."""

import mmap
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from clpds.bounds import SETTINGS, VOCABULARY_FILE
from clpds.inside import read_json, require_own
from clpds.model_counts import require_ids

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "*.model", "chat_template.jinja",
)  # fmt: skip
# What transformers reads beside these.
ALSO_READ = (
    "config.json", "generation_config.json", "processor_config.json", "chat_template.json",
    "additional_chat_templates/*.jinja", "tekken.json", "*.tiktoken",
)  # fmt: skip
LARGE = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "*.model", "tekken.json", "*.tiktoken")
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # stands for a lone byte in models that fall back to bytes


def has_tokenizer(folder: Path) -> bool:
    """Whether AutoTokenizer finds something to open in ``folder``."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")) or any(
        folder.glob("*.model")
    )


def require_small_files(folder: Path) -> None:
    """UserError unless all that is read of ``folder`` beside weights lies in it, as regular files of bounded size.

    An id beyond any vocabulary is found before the library sees it, which makes a table as long as the largest.
    """
    for file in _own_files(folder, *TOKENIZER_FILES, *ALSO_READ):
        require_ids(file, _ids(file))


def tokenizer_files(folder: Path) -> Iterator[Path]:
    """The tokenizer's files, to be copied; UserError for a link out of the folder, a special file, or one too large."""
    return _own_files(folder, *TOKENIZER_FILES)


def copy_tokenizer(source: Path | None, folder: Path) -> None:
    """Copy the tokenizer's files as they are, so that whatever could read them still can."""
    if source is None:
        return
    for file in tokenizer_files(source):
        shutil.copyfile(file, folder / file.name)


def _ids(file: Path) -> list[int]:
    """The ids that a file of a tokenizer gives to tokens; none where all are small, and where it cannot be read."""
    if file.name not in ("tokenizer.json", "vocab.json", "added_tokens.json", "tokenizer_config.json"):
        return []
    if file.name in LARGE and not _has_large_numbers(file):
        return []  # a fast look at 30 MB, of which a dict would take half a second
    try:
        document = read_json(file, VOCABULARY_FILE)
        if file.name == "tokenizer.json":
            vocabulary = document["model"]["vocab"]
            found = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
            found += [token["id"] for token in document.get("added_tokens") or ()]
        elif file.name == "tokenizer_config.json":
            found = [int(number) for number in document.get("added_tokens_decoder") or ()]
        else:
            found = list(document.values())
        return [number for number in found if isinstance(number, int)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # who opens the tokenizer says what is wrong


def _has_large_numbers(file: Path) -> bool:
    if not file.stat().st_size:
        return False
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(rb":\s*[0-9]{8}", content) is not None


def _own_files(folder: Path, *patterns: str) -> Iterator[Path]:
    for pattern in patterns:
        for file in sorted(folder.glob(pattern)):
            require_own(file, VOCABULARY_FILE if pattern in LARGE else SETTINGS)
            yield file
