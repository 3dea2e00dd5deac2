"""The verb init grows: alone, and before the vocabulary is exchanged, with nothing written in between."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from clpds import provenance
from clpds.errors import UserError
from clpds.recipe import Init
from clpds.transfer.init import init
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An English source, byte-level, and a German helper, unigram."""
    folder = tmp_path_factory.mktemp("models")
    english, german = tiny_tokenizer("byte_bpe", "en"), tiny_tokenizer("unigram", "de")
    save_model(folder / "source", tiny_model("llama", len(english)), english)
    save_model(folder / "helper", tiny_model("gpt2", len(german), seed=1, n_embd=16), german)
    return folder


def loss(folder: Path) -> float:
    """On German text, cut by the model's own tokenizer."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = torch.tensor(tokenizer(text("de")[0]).input_ids[:200])[None]
    with torch.no_grad():
        return float(model(tokens, labels=tokens).loss)


def test_grow_alone_keeps_vocabulary_and_function(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    init(Init(method="grow", source=models / "source", width=48, depth=3, out=out))
    assert loss(out) == pytest.approx(loss(models / "source"), abs=1e-5)
    screen = capsys.readouterr().out
    assert "grown: width 32 -> 48, heads 4 -> 6, key-value heads 2 -> 3, feed-forward 64 -> 96, layers 2 -> 3" in screen
    assert "of the largest logit" in screen
    record = provenance.read(out)
    assert record is not None
    assert provenance.verify(out) == []
    assert record["growth"]["before"]["width"] == 32
    assert record["growth"]["after"]["width"] == 48
    assert record["growth"]["fill"] == "zero"
    assert record["growth"]["logit_difference"]["relative"] < 1e-5
    assert "width 32 -> 48" in (out / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_model_without_a_tokenizer_grows(tmp_path: Path) -> None:
    save_model(tmp_path / "source", tiny_model("llama", 100))
    init(Init(method="grow", source=tmp_path / "source", width=48, out=tmp_path / "out"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.hidden_size == 48


@pytest.mark.parametrize(("width", "fill"), [(48, "zero"), (64, "copy")])
@pytest.mark.parametrize("method", ["clp", "subpieces"])
def test_growing_first_and_exchanging_the_vocabulary_is_exchanging_it_in_a_larger_model(
    method: str, width: int, fill: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = {"helper": models / "helper"} if method == "clp" else {"tokenizer": models / "helper"}
    common = {"method": method, "source": models / "source", **target}
    init(Init(**common, out=tmp_path / "small"))
    init(Init(**common, width=width, depth=3, fill=fill, out=tmp_path / "large"))
    assert loss(tmp_path / "large") == pytest.approx(loss(tmp_path / "small"), abs=1e-4)
    assert f"grown: width 32 -> {width}" in capsys.readouterr().out
    record = provenance.read(tmp_path / "large")
    assert record is not None
    assert {"growth", "overlap", "condition"} <= set(record)
    card = (tmp_path / "large" / "README.md").read_text()
    assert f"width 32 -> {width}" in card
    assert "unchanged" not in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "small"]


def test_a_size_that_cannot_be_is_said_before_anything_is_written(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot grow width from 32 to 16"):
        init(Init(method="grow", source=models / "source", width=16, out=tmp_path / "out"))
    assert not list(tmp_path.iterdir())
