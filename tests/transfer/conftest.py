"""A source, a helper and a command for the tests of `clpds init`."""

from pathlib import Path

import pytest
import torch

from clpds.recipe import Init
from tests.tiny import save_model, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An English source (byte-level, untied, bf16, padded rows) and a German helper (unigram, untied)."""
    folder = tmp_path_factory.mktemp("models")
    english, german = tiny_tokenizer("byte_bpe", "en"), tiny_tokenizer("unigram", "de")
    source = tiny_model("llama", 640, tied=False, dtype=torch.bfloat16)
    save_model(folder / "source", source, english)
    save_model(folder / "helper", tiny_model("gpt2", len(german), tied=False, seed=1, n_embd=16), german)
    return folder


@pytest.fixture
def step(models: Path, tmp_path: Path) -> Init:
    return Init(source=models / "source", helper=models / "helper", out=tmp_path / "out")
