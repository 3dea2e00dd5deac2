"""Loss on held-out blocks while training, and bits per byte; the same on any number of ranks."""

import math
from typing import Any

import torch
import torch.distributed as dist

from clpds.data.blocks import on_device
from clpds.data.order import Samples
from clpds.objectives import Objective
from clpds.recipe import Train
from clpds.training.group import total

SEED = 0  # of what an objective draws: the same whatever the stage's seed, so that runs can be compared


def validate(
    engine: Any, objective: Objective[Any], corpora: dict[str, Samples[Any]], stage: Train, device: torch.device
) -> dict[str, dict[str, float]]:
    """Corpus name to ``loss`` (nats a prediction), on every rank; ``bits_per_byte`` too if every token is predicted."""
    engine.eval()
    scores = {name: _score(engine, objective, blocks, stage, device) for name, blocks in corpora.items()}
    engine.train()
    return scores


@torch.no_grad()
def _score(
    engine: Any, objective: Objective[Any], blocks: Samples[Any], stage: Train, device: torch.device
) -> dict[str, float]:
    count = min(len(blocks), stage.validation.blocks or len(blocks))
    at_once = stage.micro_batch * dist.get_world_size()
    nll = predictions = text_bytes = 0.0
    # Under ZeRO-3 every rank must do the same number of forward passes: past the end, ones that do not count.
    for first in range(dist.get_rank() * stage.micro_batch, -(-count // at_once) * at_once, at_once):
        indices = [index for index in range(first, first + stage.micro_batch) if index < count]
        batch = on_device(objective.prepare(blocks.batch(indices or [0]), indices or [0], SEED), device)
        loss = objective.loss_sum(engine, batch)
        if indices:
            nll += float(loss)
            predictions += objective.count(batch)
            text_bytes += blocks.predicted_bytes(indices)
    nll, predictions, text_bytes = total([nll, predictions, text_bytes], device)
    scores = {"loss": nll / predictions}
    if objective.every_token:
        scores["bits_per_byte"] = nll / math.log(2) / text_bytes
    return scores
