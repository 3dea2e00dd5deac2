"""Loss and bits per byte on held-out blocks while training; the same on any number of ranks."""

import math
from typing import Any

import torch
import torch.distributed as dist

from clpds.data.blocks import Batch, Blocks
from clpds.models.packing import forward_packed
from clpds.objectives.causal import nll_sum
from clpds.recipe import Train
from clpds.training.group import total


def validate(
    engine: Any, corpora: dict[str, Blocks], stage: Train, device: torch.device
) -> dict[str, dict[str, float]]:
    """Corpus name to ``loss`` (nats per predicted token) and ``bits_per_byte``, on every rank."""
    engine.eval()
    scores = {name: _score(engine, blocks, stage, device) for name, blocks in corpora.items()}
    engine.train()
    return scores


@torch.no_grad()
def _score(engine: Any, blocks: Blocks, stage: Train, device: torch.device) -> dict[str, float]:
    count = min(len(blocks), stage.validation.blocks or len(blocks))
    at_once = stage.micro_batch * dist.get_world_size()
    nll = tokens = text_bytes = 0.0
    # Under ZeRO-3 every rank must do the same number of forward passes: past the end, unlabelled ones.
    for first in range(dist.get_rank() * stage.micro_batch, -(-count // at_once) * at_once, at_once):
        indices = [index for index in range(first, first + stage.micro_batch) if index < count]
        batch = blocks.batch(indices or [0])
        batch = Batch(*(tensor.to(device) for tensor in batch))
        logits = forward_packed(engine, batch, isolate=stage.isolate_documents)
        if indices:
            nll += float(nll_sum(logits, batch.labels))
            tokens += int((batch.labels[:, 1:] != -100).sum())
            text_bytes += blocks.predicted_bytes(indices)
    nll, tokens, text_bytes = total([nll, tokens, text_bytes], device)
    return {"loss": nll / tokens, "bits_per_byte": nll / math.log(2) / text_bytes}
