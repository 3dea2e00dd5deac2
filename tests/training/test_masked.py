"""A masked stage under ZeRO-3: it is torch's AdamW, it goes on on other ranks, and it validates by fixed gaps."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from clpds.data.blocks import IGNORED, open_blocks
from clpds.data.order import Mixture
from clpds.objectives.masked import Masked
from clpds.recipe import Optimizer, Saving, Train, Validation
from clpds.run_folder import whole_checkpoints
from clpds.training.schedule import learning_rate
from clpds.vocabulary.tokenizer import load_tokenizer
from tests.ranks import run_ranks
from tests.training.stages import curve, read_metrics, refused, run_stage, stage, write_inputs

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module", params=["bert", "roberta"])
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("masked"), shape=request.param, family="wordpiece", **CALM)


def plain_torch(task: Train) -> list[float]:
    """One process, no DeepSpeed: the losses, each document of a block on its own and all its logits computed."""
    model = AutoModelForMaskedLM.from_pretrained(task.model, dtype=torch.float32)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": task.optimizer.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=task.optimizer.betas, eps=task.optimizer.eps)
    data = open_blocks(task.data["german"].path, "train")
    mixture, masked = Mixture([data], [1.0], task.seed), Masked.of(load_tokenizer(data.tokenizer_folder), 0.15, "")
    losses = []
    for step in range(task.steps):
        samples = range(step * task.global_batch, (step + 1) * task.global_batch)
        batch = masked.prepare(mixture.batch(samples), samples, task.seed)
        nll, count = torch.zeros(()), int((batch.labels != IGNORED).sum())
        for ids, positions, labels in zip(*batch[:3], strict=True):
            starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
            for start, stop in pairwise(starts):
                logits = model(input_ids=ids[None, start:stop]).logits[0]
                nll = nll + torch.nn.functional.cross_entropy(logits, labels[start:stop], reduction="sum")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(task, step)
        optimizer.zero_grad()
        (nll / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), task.optimizer.clip)
        optimizer.step()
        losses.append(nll.item() / count)
    return losses


def test_equals_plain_torch_on_any_number_of_ranks(inputs: dict[str, Path], tmp_path: Path) -> None:
    task = stage(inputs, tmp_path / "two", objective="masked")
    expected = plain_torch(task)
    for ranks, micro_batch, recompute in ((2, 2, False), (1, 8, True)):
        other = replace(task, out=tmp_path / f"{ranks}", micro_batch=micro_batch, activation_checkpointing=recompute)
        assert curve(run_ranks(ranks, run_stage, other)[0]) == pytest.approx(expected, abs=2e-6)


def test_validation_hides_the_same_tokens_whatever_the_seed(inputs: dict[str, Path], tmp_path: Path) -> None:
    still, scores = Optimizer(lr=0.0), []
    for ranks, seed in ((1, 3), (2, 4)):
        task = stage(inputs, tmp_path / f"{ranks}", objective="masked", steps=1, seed=seed, optimizer=still)
        run_ranks(ranks, run_stage, replace(task, validation=Validation(every=1, blocks=7)))
        last = json.loads((task.out / "metrics.jsonl").read_text().splitlines()[-1])
        scores.append(last["validation"]["german"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    assert scores[0].keys() == {"loss"}


def test_frozen_parts_go_on_on_another_number_of_ranks(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path, shape="bert", family="wordpiece", **CALM)
    adapt = ("*word_embeddings*", "cls.predictions.bias")
    task = stage(inputs, tmp_path / "run", objective="masked", trainable=adapt, saving=Saving(every=4))
    run_ranks(2, run_stage, task)
    shutil.copytree(task.out, tmp_path / "again")
    shutil.rmtree(whole_checkpoints(tmp_path / "again")[-1])
    run_ranks(1, run_stage, replace(task, out=tmp_path / "again"))
    assert curve(read_metrics(tmp_path / "again")) == pytest.approx(curve(read_metrics(task.out)), abs=1e-5)


def test_objectives_and_models_that_do_not_go_together(tmp_path: Path) -> None:
    masked = write_inputs(tmp_path / "masked", shape="bert", family="wordpiece")
    causal = write_inputs(tmp_path / "causal")
    (message,) = run_ranks(1, refused, stage(masked, tmp_path / "run"))
    assert "BertForMaskedLM does not go on" in message
    (message,) = run_ranks(1, refused, stage(causal, tmp_path / "run2", objective="masked"))
    assert "no mask token" in message
