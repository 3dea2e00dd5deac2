"""The files of a tokenizer's folder, told apart and copied without opening them."""

import re
import shutil
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "*.model", "chat_template.jinja",
)  # fmt: skip
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # stands for a lone byte in models that fall back to bytes


def has_tokenizer(folder: Path) -> bool:
    """Whether AutoTokenizer finds something to open in ``folder``."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")) or any(
        folder.glob("*.model")
    )


def copy_tokenizer(source: Path | None, folder: Path) -> None:
    """Copy the tokenizer's files as they are, so that whatever could read them still can."""
    if source is None:
        return
    for pattern in TOKENIZER_FILES:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, folder / file.name)
