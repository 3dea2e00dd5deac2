"""ZeRO-3 on one and two ranks is torch's AdamW on the joined batch: the trainer's oracle."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from clpds.data.blocks import open_blocks
from clpds.data.order import Mixture
from clpds.recipe import Train
from clpds.training.schedule import learning_rate
from tests.ranks import run_ranks
from tests.training.stages import curve, run_stage, stage, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("oracle"))


def plain_torch(task: Train) -> tuple[list[float], list[float]]:
    """One process, no DeepSpeed: losses and gradient norms, each document of a block on its own."""
    model = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32)
    vectors = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    groups = [
        {"params": matrices, "weight_decay": task.optimizer.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=task.optimizer.betas, eps=task.optimizer.eps)
    mixture = Mixture([open_blocks(task.data["german"].path, "train")], [1.0], task.seed)
    losses, norms = [], []
    for step in range(task.steps):
        batch = mixture.batch(range(step * task.global_batch, (step + 1) * task.global_batch))
        nll, count = torch.zeros(()), 0
        for ids, positions in zip(batch.input_ids, batch.position_ids, strict=True):
            starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
            for start, stop in pairwise(starts):
                logits = model(input_ids=ids[None, start:stop]).logits[0, :-1]
                nll = nll + torch.nn.functional.cross_entropy(logits, ids[start + 1 : stop], reduction="sum")
                count += stop - start - 1
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(task, step)
        optimizer.zero_grad()
        (nll / count).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), task.optimizer.clip)))
        optimizer.step()
        losses.append(nll.item() / count)
    return losses, norms


@pytest.mark.parametrize(
    ("zero", "ranks", "micro_batch", "checkpointing"),
    [(3, 2, 4, False), (3, 2, 2, True), (3, 1, 8, False), (3, 1, 2, False), (1, 2, 2, False), (2, 2, 2, False)],
)
def test_equals_plain_torch(
    inputs: dict[str, Path], tmp_path: Path, zero: int, ranks: int, micro_batch: int, checkpointing: bool
) -> None:
    task = stage(inputs, tmp_path / "run", micro_batch=micro_batch, activation_checkpointing=checkpointing)
    if zero != 3:
        (tmp_path / "zero.json").write_text(json.dumps({"zero_optimization": {"stage": zero}}))
        task = replace(task, deepspeed=tmp_path / "zero.json")
    losses, norms = plain_torch(task)
    lines = run_ranks(ranks, run_stage, task)[0]
    assert curve(lines) == pytest.approx(losses, abs=1e-6)
    assert curve(lines, "grad_norm") == pytest.approx(norms, abs=1e-6, rel=1e-6)
    assert max(norms) > task.optimizer.clip > 0  # clipping was at work
