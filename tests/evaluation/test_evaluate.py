"""`clpds eval` against the definition of its numbers, written out naively."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from clpds import cli, recipe
from clpds.checkpoint import open_checkpoint
from clpds.data.prepare import prepare
from clpds.errors import UserError
from clpds.evaluation.evaluate import evaluate
from clpds.evaluation.model import load_model
from clpds.report.compare import read_evaluation
from tests.tiny import CAUSAL, save_model, text, tiny_model, tiny_tokenizer

LENGTH = 64
DOCUMENTS = [*(verse for chapter in text("de", 2) for verse in chapter.split("\n")[:12]), "A", text("de", 3)[2][:900]]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Short documents, several to a block, and a long one over several blocks."""
    file = tmp_path / "verses.jsonl"
    file.write_text("".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS))
    return file


def model_folder(folder: Path, shape: str = "llama", family: str = "byte_bpe", **changes: Any) -> Path:
    tokenizer = tiny_tokenizer(family)
    return save_model(folder, tiny_model(shape, len(tokenizer), **changes), tokenizer)


def numbers(step: recipe.Eval) -> dict[str, Any]:
    evaluate(step)
    assert step.out is not None
    return json.loads(step.out.read_text())


def naive(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> tuple[float, int, int]:
    """(nats, tokens, bytes): every piece of a document that a block holds alone, by transformers' own loss."""
    nats, tokens, size, place = 0.0, 0, 0, 0
    for document in DOCUMENTS:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(document, add_special_tokens=False), tokenizer.eos_token_id]
        while ids:
            room = LENGTH - place % LENGTH
            piece, ids = ids[:room], ids[room:]
            place += len(piece)
            if len(piece) > 1:
                inputs = torch.tensor([piece])
                with torch.no_grad():
                    nats += model(input_ids=inputs, labels=inputs).loss.item() * (len(piece) - 1)
                tokens += len(piece) - 1
            # GPT-2's alphabet spells every byte as one character.
            size += sum(len(tokenizer.convert_ids_to_tokens(token)) for token in piece[1:] if token > 2)
    return nats, tokens, size


@pytest.mark.parametrize("shape", CAUSAL)
def test_the_numbers_are_those_of_the_definition(shape: str, corpus: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", shape)
    found = numbers(recipe.Eval(model=folder, data=corpus, sequence_length=LENGTH, out=tmp_path / "a.json"))
    model = tiny_model(shape, len(tiny_tokenizer("byte_bpe")))
    nats, tokens, size = naive(model, tiny_tokenizer("byte_bpe"))
    assert (found["tokens"], found["bytes"]) == (tokens, size)
    assert found["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)


@pytest.mark.parametrize("shape", ["qwen2", "bloom"])
def test_micro_batch_changes_nothing(shape: str, corpus: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", shape)
    losses = [
        numbers(
            recipe.Eval(model=folder, data=corpus, sequence_length=LENGTH, micro_batch=size, out=tmp_path / "a.json")
        )["loss"]
        for size in (1, 3, 100)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_prepared_data_scores_as_the_raw_text_does(corpus: Path, tmp_path: Path) -> None:
    folder, out = model_folder(tmp_path / "model"), tmp_path / "a.json"
    prepare(
        recipe.Data(
            input=(corpus,), tokenizer=folder, sequence_length=LENGTH, validation_fraction=1, out=tmp_path / "data"
        )
    )
    raw = numbers(recipe.Eval(model=folder, data=corpus, sequence_length=LENGTH, out=out))
    prepared = numbers(recipe.Eval(model=folder, data=tmp_path / "data", out=out))
    assert {**raw, "data": ""} == {**prepared, "data": ""}
    first = numbers(recipe.Eval(model=folder, data=tmp_path / "data", blocks=1, out=out))
    assert first["blocks"] == 1
    assert first["tokens"] < LENGTH
    assert first["text"] != raw["text"]  # not the same text any more
    with pytest.raises(UserError, match="packed already"):
        evaluate(recipe.Eval(model=folder, data=tmp_path / "data", sequence_length=LENGTH))
    other = model_folder(tmp_path / "other", family="unigram")
    with pytest.raises(UserError, match="different tokenizers"):
        evaluate(recipe.Eval(model=other, data=tmp_path / "data"))
    across = numbers(recipe.Eval(model=other, data=corpus, sequence_length=LENGTH, out=out))
    assert across["text"] == raw["text"]
    assert across["tokenizer"] != raw["tokenizer"]


def test_unknown_text_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that need not predict it has fewer bits per byte."""
    model = model_folder(tmp_path / "model", family="unigram")
    raw = tmp_path / "mixed.txt"
    raw.write_text("Gott schuf 你好世界 Himmel\nAm Anfang schuf Gott\n", encoding="utf-8")
    prepare(
        recipe.Data(input=(raw,), tokenizer=model, sequence_length=LENGTH, out=tmp_path / "data", validation_fraction=1)
    )
    capsys.readouterr()
    for data in (raw, tmp_path / "data"):
        length = LENGTH if data == raw else None
        found = numbers(recipe.Eval(model=model, data=data, sequence_length=length, out=tmp_path / "a.json"))
        assert found["unknown_share"] == pytest.approx(12 / 49, abs=0.03)
        said = capsys.readouterr()
        assert f"{found['unknown_share']:.2%} of the text, by bytes" in said.out
        assert said.err.count("is the unknown token") == 1


def test_json_is_all_there_is_on_stdout(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["clpds", "eval", str(model_folder(tmp_path / "model")), "--data", str(corpus)]
    command += ["--out", str(tmp_path / "deep" / "a.json")]
    monkeypatch.setattr(sys, "argv", [*command, "--json"])
    cli.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "deep" / "a.json").read_text())
    assert printed["sequence_length"] == 1024
    monkeypatch.setattr(sys, "argv", command)
    cli.main()
    table = capsys.readouterr().out
    assert f"{printed['bits_per_byte']:.4f}" in table
    assert "split" not in table  # of the data prepared on the way


def test_a_short_model_gets_short_windows(corpus: Path, tmp_path: Path) -> None:
    folder, out = model_folder(tmp_path / "model", "gpt2"), tmp_path / "a.json"
    assert numbers(recipe.Eval(model=folder, data=corpus, out=out))["sequence_length"] == 128
    with pytest.raises(UserError, match=r"129 tokens.*128 positions"):
        evaluate(recipe.Eval(model=folder, data=corpus, sequence_length=129))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_model_runs_in_the_type_it_is_stored_in(dtype: torch.dtype, corpus: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", dtype=dtype)
    assert load_model(open_checkpoint(folder)).dtype == dtype
    step = recipe.Eval(model=folder, data=corpus, out=tmp_path / "a.json")
    whole = model_folder(tmp_path / "float32")
    full = recipe.Eval(model=whole, data=corpus, out=tmp_path / "b.json")
    assert numbers(step)["loss"] == pytest.approx(numbers(full)["loss"], rel=1e-2)


def test_a_loss_that_is_not_finite_is_named(corpus: Path, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("byte_bpe")
    model = tiny_model("llama", len(tokenizer))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = math.nan
    step = recipe.Eval(
        model=save_model(tmp_path / "model", model, tokenizer), data=corpus, out=tmp_path / "a.json", micro_batch=1
    )
    with pytest.raises(UserError, match=r"block 0 is nan: tensor model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        evaluate(step)
    assert not (tmp_path / "a.json").exists()


def test_what_cannot_be_scored_is_refused(corpus: Path, tmp_path: Path) -> None:
    narrow = save_model(tmp_path / "narrow", tiny_model("llama", 500), tiny_tokenizer("byte_bpe"))
    with pytest.raises(UserError, match="needs 600 embedding rows, the model has 500"):
        evaluate(recipe.Eval(model=narrow, data=corpus))
    mute = save_model(tmp_path / "mute", tiny_model("llama", 600))
    with pytest.raises(UserError, match="no tokenizer"):
        evaluate(recipe.Eval(model=mute, data=corpus))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stage.json").write_text("{}")
    with pytest.raises(UserError, match="clpds convert"):
        evaluate(recipe.Eval(model=tmp_path / "run", data=corpus))
    folder = model_folder(tmp_path / "model")
    with pytest.raises(UserError, match="nowhere"):
        evaluate(recipe.Eval(model=folder, data=tmp_path / "nowhere.txt"))


def test_a_model_without_head_is_refused(tmp_path: Path) -> None:
    body = AutoModel.from_config(tiny_model("gpt2", 300).config)
    with pytest.raises(UserError, match="is a GPT2Model, which has no head"):
        evaluate(recipe.Eval(model=save_model(tmp_path / "body", body), data=tmp_path))


def test_a_masked_model_fills_the_same_gaps_every_time(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    model = tiny_model("bert", len(tokenizer), pad_token_id=0)
    folder = save_model(tmp_path / "bert", model, tokenizer)
    step = recipe.Eval(model=folder, data=corpus, sequence_length=LENGTH, out=tmp_path / "a.json")
    found = numbers(step)
    assert "bits per byte" not in capsys.readouterr().out
    small = numbers(replace(step, micro_batch=3))
    assert small["tokens"] == found["tokens"]
    assert small["loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert numbers(replace(step, seed=1))["loss"] != found["loss"]
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]), rel=1e-6)
    assert found["bits_per_byte"] is None
    with pytest.raises(UserError, match="masked language model"):
        read_evaluation("bert", tmp_path / "a.json")
    mute = save_model(tmp_path / "mute", model, tiny_tokenizer("byte_bpe"))
    with pytest.raises(UserError, match="no mask token"):
        evaluate(recipe.Eval(model=mute, data=corpus))
