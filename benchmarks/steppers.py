"""One way to train, on a rank of a group: ``python -m benchmarks.launch N steppers WAY RECIPE OUT.json``.

All three do the same steps on the same blocks in the same order. Rank 0 writes when each step began, and the losses.
"""

import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from clpds.data.blocks import IGNORED
from clpds.recipe import Train, load_stage
from clpds.run_folder import read_metrics
from clpds.training.engine import build_engine, build_model, deepspeed_config
from clpds.training.group import process_group, total
from clpds.training.loop import Loop, rank_indices, train
from clpds.training.setup import open_inputs, open_model
from clpds.training.stopping import stop_flag


def ours(stage: Train, device: torch.device, begun: list[float]) -> list[float]:
    """`clpds train`, as it is."""
    step = Loop.step

    def noted(*arguments: Any, **named: Any) -> Any:
        begun.append(time.perf_counter())
        return step(*arguments, **named)

    with stop_flag() as flag, patch.object(Loop, "step", noted):
        train(stage, device, flag)
    return [line["loss"] for line in read_metrics(stage.out)]


def bare(stage: Train, device: torch.device, begun: list[float]) -> list[float]:
    """DeepSpeed's three calls on batches that lie ready: nothing read, logged or checked."""
    inputs, config = open_inputs(stage), deepspeed_config(stage, dist.get_world_size())
    batches = [[inputs.mixture.batch(micro) for micro in rank_indices(stage, step)] for step in range(stage.steps)]
    counts = [sum(int((batch.labels[:, 1:] != IGNORED).sum()) for batch in micros) for micros in batches]
    scales = [tokens / dist.get_world_size() / len(batches[0]) for tokens in total([*map(float, counts)], device)]
    engine = build_engine(build_model(open_model(stage, inputs), config, device), stage, config, device)
    losses = []
    for micros, scale in zip(batches, scales, strict=True):
        begun.append(time.perf_counter())
        for batch in micros:
            words = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "labels": batch.labels}
            # The model divides its sum by the number given: the global batch's tokens, as DeepSpeed takes means.
            loss = engine(**words, use_cache=False, num_items_in_batch=scale).loss
            engine.backward(loss)
            engine.step()
            losses.append(loss.detach())
    sums = torch.stack(losses).view(stage.steps, -1).sum(1)
    return [value / dist.get_world_size() / len(batches[0]) for value in total(sums.tolist(), device)]


def main(way: str, recipe: str, out: str) -> None:
    """Train, then write what rank 0 saw."""
    if way == "trainer":
        from benchmarks.hf_trainer import trainer as step  # 5 s of imports, which the others spare
    else:
        step = {"ours": ours, "bare": bare}[way]
    stage = load_stage(Path(recipe), (), None)[1]
    begun: list[float] = []
    with process_group() as device:
        losses = step(stage, device, begun)
        if dist.get_rank() == 0:
            Path(out).write_text(json.dumps({"begun": begun, "losses": losses}))
        dist.barrier()
