"""A loss that is not finite changes no weight on any rank; one that jumps is told of once."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from clpds.objectives import objective_of
from clpds.recipe import Train
from clpds.training import loop
from clpds.training.divergence import spikes
from clpds.training.group import process_group
from clpds.training.metrics import Metrics
from clpds.training.stopping import StopFlag
from tests.ranks import run_ranks
from tests.training.stages import read_metrics, stage, write_inputs
from tests.training.test_stage import BF16


class OneBadBatch:
    """An objective whose loss is infinite, its gradient finite, in the first micro batch of step 3 on rank 1 only.

    A real model hardly has such a loss, and from one with a gradient of NaN DeepSpeed alone would protect.
    """

    def __init__(self, objective: Any) -> None:
        self.objective, self.weights, self.calls = objective, list[str](), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)

    def loss_sum(self, engine: Any, batch: Any) -> torch.Tensor:
        if self.calls % 2 == 0:
            digest = xxhash.xxh3_128()
            for parameter in engine.parameters():
                own = getattr(parameter, "ds_tensor", parameter).detach()
                digest.update(own.contiguous().view(torch.uint8).numpy())
            self.weights.append(digest.hexdigest())
        self.calls += 1
        bad = self.calls == 5 and os.environ["RANK"] == "1"
        loss: torch.Tensor = self.objective.loss_sum(engine, batch) + (float("inf") if bad else 0)
        return loss


def weights_by_step(tasks: Sequence[Train]) -> list[list[str]]:
    """For each stage a hash of this rank's weights before each step."""
    found = []
    with process_group() as device:
        for task in tasks:
            made: list[OneBadBatch] = []
            loop.objective_of = lambda *given, made=made: made.append(OneBadBatch(objective_of(*given))) or made[0]
            loop.train(task, device, StopFlag())
            found.append(made[0].weights)
    return found


def test_a_loss_that_is_not_finite_on_one_rank_changes_no_weight_on_any(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    tasks = []
    for name, config in {
        "float32": {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}},
        "sliced-optimizer": {"zero_optimization": {"stage": 1}},
        "bf16": BF16,
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        tasks.append(stage(inputs, tmp_path / name, deepspeed=tmp_path / f"{name}.json", steps=5))
    ranks = run_ranks(2, weights_by_step, tasks)
    for number, task in enumerate(tasks):
        for weights in (rank[number] for rank in ranks):
            assert weights[2] == weights[3]
            assert len(set(weights)) == 4
        lines = read_metrics(task.out)
        assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1, 1]
        assert [line["step"] for line in lines if line["loss"] is None] == [3]


def curve_with_a_spike() -> list[float]:
    """A training's loss, noisy and falling; steps 200 to 202 stand far above, and 300 a little."""
    steps = np.arange(400)
    losses = 3 + 4 * np.exp(-steps / 60) + np.random.default_rng(0).normal(0, 0.05, 400)
    losses[200:203] += 2
    losses[300] += 0.1
    return losses.tolist()


def test_a_spike_is_told_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = curve_with_a_spike()
    assert [step for step in range(400) if spikes(losses[: step + 1])] == [200]
    for start, end in ((0, 150), (100, 201), (200, 202), (202, 400)):  # cut off now and then
        metrics = Metrics(tmp_path, start=start, steps=400)
        for step in range(start + 1, end + 1):
            metrics.log(step, loss=losses[step - 1], tokens_per_second=1)
        metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("spike")] == [201]
    assert capsys.readouterr().err.count("step 201: the loss jumps to 5.1") == 2  # once by each process that saw it
