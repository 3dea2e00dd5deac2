"""Causal language modelling: predict each token from those before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from clpds.data.blocks import IGNORED, Batch
from clpds.models.layout import trimmed
from clpds.models.packing import forward_packed, require_causal


@dataclass(frozen=True)
class Causal:
    """Next-token prediction on packed blocks."""

    isolate: bool = True
    """Documents of a block do not see each other."""
    single: bool = False
    """Each block has one document, and padding behind it."""
    micro_batch: int = 1
    """Blocks of a forward pass."""
    every_token: bool = True

    def check(self, model: nn.Module) -> None:
        """Raise UserError for what is no causal model, and for one that cannot keep documents apart but shall."""
        require_causal(model, isolate=self.isolate, single=self.single, micro_batch=self.micro_batch)

    def prepare(self, batch: Batch, samples: Sequence[int], seed: int) -> Batch:
        """The batch as it is."""
        return batch

    def count(self, batch: Batch) -> int:
        """Tokens with something of their document before them."""
        return int((batch.labels[:, 1:] != IGNORED).sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Negative log likelihood of those tokens in nats (float32 scalar)."""
        if self.single:
            batch = trimmed(batch)
        return nll_sum(forward_packed(model, batch, isolate=self.isolate or self.single), batch.labels)


def nll_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the negative log likelihoods in nats (float32 scalar).

    ``logits`` (B, N, V) at position i predict ``labels`` (B, N) at i + 1; label -100 counts nothing.
    The softmax runs in float32 whatever the model's type.
    """
    # Labels move, not logits: a copy of these, and of their gradient, is gigabytes with a large vocabulary.
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    predicted = logits.flatten(0, 1).to(torch.float32)
    return F.cross_entropy(predicted, following.flatten(), ignore_index=IGNORED, reduction="sum")
