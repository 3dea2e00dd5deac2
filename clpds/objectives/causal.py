"""Causal language modelling: predict each token from those before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from clpds.data.blocks import IGNORED, Batch
from clpds.errors import UserError
from clpds.models.packing import bare, can_isolate, forward_packed


@dataclass(frozen=True)
class Causal:
    """Next-token prediction on packed blocks."""

    isolate: bool = True
    """Documents of a block do not see each other."""
    every_token: bool = True

    def check(self, model: nn.Module) -> None:
        """Raise UserError for a masked language model, and for one that cannot keep documents apart but shall."""
        inner = bare(model)
        if not inner.can_generate():
            raise UserError(
                f"{type(inner).__name__} does not go on with a text; set objective: masked if it fills gaps"
            )
        if self.isolate and not can_isolate(model):
            kind = inner.config.model_type
            raise UserError(f"{kind} models cannot keep the documents of a block apart; set isolate_documents: false")

    def prepare(self, batch: Batch, samples: Sequence[int], seed: int) -> Batch:
        """The batch as it is."""
        return batch

    def count(self, batch: Batch) -> int:
        """Tokens with something of their document before them."""
        return int((batch.labels[:, 1:] != IGNORED).sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Negative log likelihood of those tokens in nats (float32 scalar)."""
        return nll_sum(forward_packed(model, batch, isolate=self.isolate), batch.labels)


def nll_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the negative log likelihoods in nats (float32 scalar).

    ``logits`` (B, N, V) at position i predict ``labels`` (B, N) at i + 1; label -100 counts nothing.
    The softmax runs in float32 whatever the model's type.
    """
    # Labels move, not logits: a copy of these, and of their gradient, is gigabytes with a large vocabulary.
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    predicted = logits.flatten(0, 1).to(torch.float32)
    return F.cross_entropy(predicted, following.flatten(), ignore_index=IGNORED, reduction="sum")
