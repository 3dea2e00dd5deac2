"""A command for the tests of `clpds data`."""

from pathlib import Path

import pytest

from clpds import recipe
from clpds.data import read
from tests.data.preparing import DOCUMENTS
from tests.data.test_read import write
from tests.tiny import tiny_tokenizer


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> recipe.Data:
    """German chapters, some thirty chunks."""
    monkeypatch.setattr(read, "BATCH_BYTES", 20_000)
    tiny_tokenizer("byte_bpe").save_pretrained(tmp_path / "tokenizer")
    return recipe.Data(
        input=(write(tmp_path, "jsonl", DOCUMENTS),),
        tokenizer=tmp_path / "tokenizer",
        sequence_length=128,
        validation_fraction=0.1,
        workers=1,
        out=tmp_path / "out",
    )
