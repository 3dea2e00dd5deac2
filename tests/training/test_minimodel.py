"""Mini-model adaptation in training: both heads at once, MiniPost's new layers, embeddings alone; under ZeRO-3."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForMaskedLM, BertForSequenceClassification

from clpds.conversion.convert import convert
from clpds.data.blocks import IGNORED, open_blocks
from clpds.data.order import Mixture
from clpds.data.prepare import prepare
from clpds.models.encoder import forward_at
from clpds.objectives.masked import Masked
from clpds.recipe import Convert, Corpus, Data, Init, Optimizer, Train
from clpds.training.flops import step_flops
from clpds.transfer.init import init
from clpds.vocabulary.tokenizer import load_tokenizer
from tests.ranks import run_ranks
from tests.tiny import save_model, text, tiny_tokenizer
from tests.training.stages import curve, refused, run_stage, stage, write_inputs

TAKE, LAYERS = 2, 4
SHAPES = ("bert", "roberta")


@pytest.fixture(scope="module", params=SHAPES)
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("minimodel")
    made: dict[str, Any] = write_inputs(
        folder, shape=request.param, family="wordpiece", num_hidden_layers=LAYERS, num_attention_heads=2
    )
    init(Init(method="minijoint", source=made["model"], take=TAKE, out=folder / "joint"))
    return made | {"joint": folder / "joint", "shape": request.param}


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Train:
    """A MiniJoint stage on two ranks, with dropout."""
    out = tmp_path_factory.mktemp("joint") / "run"
    task = stage(inputs, out, model=inputs["joint"], objective="minijoint")
    run_ranks(2, run_stage, task)
    return task


def converted(task: Train, out: Path) -> Path:
    convert(Convert(model=task.out, out=out, verify=True))
    return out


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_and_the_cost_the_closed_form(inputs: dict[str, Any], tmp_path: Path) -> None:
    config = json.loads((inputs["joint"] / "config.json").read_text())
    calm = shutil.copytree(inputs["joint"], tmp_path / "calm")
    calm_config = config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (calm / "config.json").write_text(json.dumps(calm_config))
    task = stage(inputs, tmp_path / "run", model=calm, objective="minijoint", mini_weight=0.25, steps=1)
    (line,) = run_ranks(2, run_stage, task)[0]
    model = AutoModelForMaskedLM.from_pretrained(calm).eval()
    data = open_blocks(inputs["data"], "train")
    masked = Masked.of(load_tokenizer(data.tokenizer_folder), 0.15, "")
    batch = masked.prepare(Mixture([data], [1.0], task.seed).batch(range(8)), range(8), task.seed)
    chosen = batch.labels != IGNORED
    output = forward_at(model, batch, chosen)
    losses = [
        torch.nn.functional.cross_entropy(logits[0], batch.labels[chosen]).item()
        for logits in (output.mini_logits, output.logits)
    ]
    assert line["loss"] == pytest.approx(0.25 * losses[0] + 0.75 * losses[1], rel=1e-5)
    with torch.enable_grad():
        cost = step_flops(AutoModelForMaskedLM.from_pretrained(calm), 64)
    assert line["model_flops"] == cost.of(8 * 64, int(chosen.sum())) == cost.of(8 * 64, line["tokens"])


def test_becomes_two_models(trained: Train, inputs: dict[str, Any], tmp_path: Path) -> None:
    joint = converted(trained, tmp_path / "joint")
    weights = tensors(joint)
    assert all(any(part in name for name in changed(tensors(inputs["joint"]), weights)) for part in ("mini_", ".3."))
    init(Init(method="primary", source=joint, out=tmp_path / "primary"))
    init(Init(method="minimodel", source=joint, take=TAKE, out=tmp_path / "mini"))
    for name, tensor in tensors(tmp_path / "primary").items():
        assert torch.equal(tensor, weights[name])  # the middle head removed, the primary is what it was
    ids = torch.arange(5, 25)[None]
    both = AutoModelForMaskedLM.from_pretrained(joint).eval()(ids)
    for name, logits in (("primary", both.logits), ("mini", both.mini_logits)):
        assert torch.equal(AutoModelForMaskedLM.from_pretrained(tmp_path / name).eval()(ids).logits, logits)


def test_minipost_trains_what_is_new_and_nothing_else(inputs: dict[str, Any], tmp_path: Path) -> None:
    body, head = ("bert", "cls") if inputs["shape"] == "bert" else ("roberta", "lm_head")
    before = tensors(inputs["model"])
    mini = tmp_path / "mini"
    init(Init(method="minimodel", source=inputs["model"], take=TAKE, new_layers=1, out=mini))
    trainable = (f"{body}.encoder.layer.{TAKE}.*", f"{head}.*")
    task = stage(inputs, tmp_path / "run", model=mini, objective="masked", trainable=trainable)
    run_ranks(2, run_stage, task)
    after = tensors(converted(task, tmp_path / "post"))
    moved = changed(tensors(mini), after)
    expected = {name for name in after if f".{TAKE}." in name or name.startswith(head)}
    assert moved | {name for name in expected if "key.bias" in name} == expected
    kept = after.keys() - expected
    assert kept
    assert all(torch.equal(after[name], before[name]) for name in kept)
    assert not changed(before, tensors(inputs["model"]))


def test_adapted_embeddings_move_alone_and_are_plugged(trained: Train, inputs: dict[str, Any], tmp_path: Path) -> None:
    """A new language end to end: its tokenizer, overlap rows, embeddings trained under the frozen mini-model, plug."""
    shape, words = inputs["shape"], f"{inputs['shape']}.embeddings.word_embeddings.weight"
    joint = converted(trained, tmp_path / "joint")
    init(Init(method="primary", source=joint, out=tmp_path / "primary"))
    init(Init(method="minimodel", source=joint, take=TAKE, out=tmp_path / "mini"))
    tokenizer = tiny_tokenizer("wordpiece", "en", 500)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    init(Init(method="overlap", source=tmp_path / "mini", tokenizer=tmp_path / "tokenizer", out=tmp_path / "start"))
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": part[:400]}) for part in text("en", 40)))
    data = Data(
        input=(tmp_path / "text.jsonl",), tokenizer=tmp_path / "start", sequence_length=64, out=tmp_path / "data",
        validation_fraction=0, workers=1,
    )  # fmt: skip
    prepare(data)
    bias = "cls.predictions.bias" if shape == "bert" else "lm_head.bias"
    task = stage(
        inputs, tmp_path / "run", model=tmp_path / "start", data={"english": Corpus(path=data.out)},
        objective="masked", trainable=("*word_embeddings*", bias), optimizer=Optimizer(lr=2e-2), steps=12,
    )  # fmt: skip
    lines = run_ranks(2, run_stage, task)[0]
    adapted = converted(task, tmp_path / "adapted")
    before, after = tensors(tmp_path / "start"), tensors(adapted)
    assert changed(before, after) == {words, bias}
    assert curve(lines)[-1] < curve(lines)[0]
    model = AutoModelForMaskedLM.from_pretrained(adapted)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    init(Init(method="plug", source=tmp_path / "primary", embeddings=adapted, out=tmp_path / "plugged"))
    plugged, primary = tensors(tmp_path / "plugged"), tensors(tmp_path / "primary")
    assert torch.equal(plugged[words], after[words])
    assert torch.equal(plugged[bias], after[bias])
    same = plugged.keys() - {words, bias}
    assert all(torch.equal(plugged[name], primary[name]) for name in same)
    if shape == "bert":  # fine-tuned meanwhile, or before: the plug is the same
        classifier = BertForSequenceClassification.from_pretrained(tmp_path / "primary", num_labels=3)
        folder = save_model(tmp_path / "task", classifier, load_tokenizer(tmp_path / "primary"))
        init(Init(method="plug", source=folder, embeddings=adapted, out=tmp_path / "plugged-task"))
        final, tuned = tensors(tmp_path / "plugged-task"), tensors(folder)
        assert changed({n: t for n, t in tuned.items() if n != words}, final) == set()
        assert torch.equal(final[words], after[words])


def test_a_model_without_a_middle_head_is_refused(inputs: dict[str, Any], tmp_path: Path) -> None:
    (message,) = run_ranks(1, refused, stage(inputs, tmp_path / "run", objective="minijoint"))
    assert "has no middle head" in message
    fresh = json.loads((inputs["joint"] / "config.json").read_text())
    (tmp_path / "fresh.json").write_text(json.dumps(fresh))
    task = stage(inputs, tmp_path / "fresh", model=tmp_path / "fresh.json", objective="minijoint", steps=1)
    (line,) = run_ranks(1, run_stage, task)[0]
    assert 4 < line["loss"] < 9
