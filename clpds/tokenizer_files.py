"""The files of a tokenizer's or a model's folder, told apart and copied without opening them."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from clpds.bounds import SETTINGS, VOCABULARY_FILE
from clpds.inside import require_own

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
    """UserError unless all that is read of ``folder`` beside weights lies in it, as regular files of bounded size."""
    for _ in _own_files(folder, *TOKENIZER_FILES, *ALSO_READ):
        pass


def tokenizer_files(folder: Path) -> Iterator[Path]:
    """The tokenizer's files, to be copied; UserError for a link out of the folder, a special file, or one too large."""
    return _own_files(folder, *TOKENIZER_FILES)


def copy_tokenizer(source: Path | None, folder: Path) -> None:
    """Copy the tokenizer's files as they are, so that whatever could read them still can."""
    if source is None:
        return
    for file in tokenizer_files(source):
        shutil.copyfile(file, folder / file.name)


def _own_files(folder: Path, *patterns: str) -> Iterator[Path]:
    for pattern in patterns:
        for file in sorted(folder.glob(pattern)):
            require_own(file, VOCABULARY_FILE if pattern in LARGE else SETTINGS)
            yield file
