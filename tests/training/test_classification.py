"""A classification stage under ZeRO-3, from a masked language model to `clpds eval --task`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from clpds import cli
from clpds.checkpoint import open_checkpoint
from clpds.checkpoint.task_head import with_classifier
from clpds.conversion.convert import convert
from clpds.data.prepare import prepare
from clpds.errors import UserError
from clpds.evaluation.accuracy import interval
from clpds.recipe import Convert, Data, Eval, Optimizer, Schedule
from tests.ranks import run_ranks
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer
from tests.training.stages import FP32_ZERO3, refused, run_stage, stage

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module", params=["bert", "roberta", "trelm-bert"])
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whether a verse begins with `Und`: what a model of two layers can learn in a few steps."""
    folder = tmp_path_factory.mktemp("task")
    tokenizer = tiny_tokenizer("wordpiece")
    changes = {"pad_token_id": tokenizer.pad_token_id, "num_hidden_layers": 2, **CALM}
    model = tiny_model(request.param, len(tokenizer), **changes)
    save_model(folder / "model", model, tokenizer)
    verses = [verse for chapter in text("de", 30) for verse in chapter.split("\n")]
    begins = [verse[:60] for verse in verses if verse.startswith("Und")]
    others = [verse[:60] for verse in verses if not verse.startswith("Und")]
    rows = [
        {"text": verse, "label": name} for name, part in (("and", begins), ("other", others)) for verse in part[:60]
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(
        Data(
            input=(folder / "train.jsonl",),
            tokenizer=folder / "model",
            sequence_length=16,
            label_key="label",
            validation_fraction=0,
            out=folder / "data",
        )
    )
    (folder / "zero3.json").write_text(json.dumps(FP32_ZERO3))
    return {"model": folder / "model", "data": folder / "data", "deepspeed": folder / "zero3.json"}


def test_a_stage_with_frozen_embeddings_learns_the_task(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = inputs["data"].with_name("train.jsonl")  # such a model learns them by heart
    kind = open_checkpoint(inputs["model"]).config.model_type
    task = stage(
        inputs,
        tmp_path / "run",
        objective="classification",
        trainable=("*.encoder.*", "classifier.*", *(["bert.pooler.*"] if kind != "roberta" else [])),
        steps=60,
        global_batch=16,
        micro_batch=8,
        optimizer=Optimizer(lr=2e-3),
        schedule=Schedule(min_lr_ratio=1.0, warmup_steps=2),
    )
    run_ranks(2, run_stage, task)
    convert(Convert(model=task.out, out=tmp_path / "model"))
    before, after = (open_checkpoint(path).tensors for path in (inputs["model"], tmp_path / "model"))
    embeddings = [name for name in after if "embeddings" in name]
    assert embeddings
    assert all(torch.equal(before[name].load(), after[name].load()) for name in embeddings)

    step = Eval(model=tmp_path / "model", data=texts, task=True, out=tmp_path / "scores.json")
    cli.room("eval")(step)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["accuracy"] > scores["chance"] + 0.1
    assert scores["low"] <= scores["accuracy"] <= scores["high"]
    assert "the most frequent class" in capsys.readouterr().out

    # transformers, text by text
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    tokenizer = tiny_tokenizer("wordpiece")
    right = []
    for line in texts.read_text().splitlines():
        row = json.loads(line)
        inside = tokenizer(row["text"], add_special_tokens=False).input_ids
        ids = torch.tensor([[tokenizer.cls_token_id, *inside, tokenizer.sep_token_id]])
        logits = model(ids).logits
        right.append(model.config.id2label[int(logits.argmax())] == row["label"])
    assert sum(right) / len(right) == scores["accuracy"]


def test_the_fresh_classifier_is_drawn_from_the_seed_and_the_body_kept(inputs: dict[str, Path]) -> None:
    source = open_checkpoint(inputs["model"])
    made = with_classifier(source, ["and", "other"], seed=3)
    fresh = {name for name in made.tensors if name not in source.tensors}
    assert {name.partition(".")[0] for name in fresh} <= {"classifier", "bert", "roberta"}
    assert all("pooler" in name or name.startswith("classifier") for name in fresh)
    again, other = (with_classifier(source, ["and", "other"], seed=seed) for seed in (3, 4))
    for name in fresh:
        values = made.tensors[name].load()
        assert torch.equal(values, again.tensors[name].load())
        assert values.ndim == 1 or not torch.equal(values, other.tensors[name].load())


def test_what_does_not_fit_is_one_line(inputs: dict[str, Path], tmp_path: Path) -> None:
    (masked,) = run_ranks(1, refused, stage(inputs, tmp_path / "run", objective="masked"))
    assert "holds labelled texts, for the objective classification; here it is masked" in masked
    llama = open_checkpoint(save_model(tmp_path / "llama", tiny_model("llama", 90)))
    with pytest.raises(UserError, match="llama models get no classifier here"):
        with_classifier(llama, ["a", "b"], 0)
    with pytest.raises(UserError, match="has no classifier"):
        cli.room("eval")(Eval(model=inputs["model"], data=inputs["data"].with_name("train.jsonl"), task=True))


def test_the_interval_is_that_of_resampled_means() -> None:
    right = np.arange(200) % 4 != 0
    low, high = interval(right, seed=0)
    random = np.random.default_rng(1)
    means = [right[random.integers(0, 200, 200)].mean() for _ in range(2000)]
    assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist(), abs=0.012)
    assert interval(np.ones(5, bool), 0) == (1.0, 1.0)
