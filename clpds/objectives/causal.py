"""Causal language modelling: predict each token from those before it."""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor


def nll_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the negative log likelihoods in nats (float32 scalar).

    ``logits`` (B, N, V) at position i predict ``labels`` (B, N) at i + 1; label -100 counts nothing.
    The softmax runs in float32 whatever the model's type.
    """
    predicted = logits[:, :-1].reshape(-1, logits.shape[-1]).to(torch.float32)
    return F.cross_entropy(predicted, labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum")
