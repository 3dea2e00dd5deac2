"""What `clpds data` is given here, what it leaves, and who interrupts it."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from clpds import recipe
from clpds.data import tokenise
from clpds.data.blocks import IGNORED, open_blocks
from clpds.data.prepare import prepare
from tests.tiny import text

DOCUMENTS = list(text("de", 120))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def decoded(folder: Path, split: str) -> list[str]:
    """The documents that the blocks of a split hold; of train the last is cut."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    data = open_blocks(folder, split)
    batch = data.batch(range(len(data)))
    ids = batch.input_ids.flatten()
    if split == "validation":
        ids = ids[: (batch.labels[-1] != IGNORED).nonzero().max() + 1 + (len(data) - 1) * data.sequence_length]
    return tokenizer.decode(ids).replace("</s>", "").split("<s>")[1:]


class Watch:
    """Notes the chunks that are tokenised, and interrupts before the next after ``stop``, as Ctrl-C does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.original = tokenise.tokenise_chunk
        self.numbers: list[int] = []
        self.stop: int | None = None
        monkeypatch.setattr(tokenise, "tokenise_chunk", self)

    def __call__(self, work: tokenise.Work, number: int) -> None:
        if self.stop == len(self.numbers):
            raise KeyboardInterrupt
        self.original(work, number)
        self.numbers.append(number)

    def interrupt(self, step: recipe.Data, stop: int) -> None:
        self.numbers, self.stop = [], stop
        with pytest.raises(KeyboardInterrupt):
            prepare(step)
        assert not step.out.exists()
        self.numbers, self.stop = [], None
