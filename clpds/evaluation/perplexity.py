"""Loss, perplexity and bits per byte of a model on packed blocks."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor
from transformers import PreTrainedModel

from clpds.data.blocks import IGNORED, Batch, Blocks, on_device
from clpds.errors import UserError
from clpds.models.encoder import forward_at, way_of_encoder
from clpds.models.layout import Rows, one_document_a_row
from clpds.models.packing import forward_packed, way_of_causal
from clpds.objectives.masked import Masked
from clpds.progress import progress


@dataclass(frozen=True)
class Score:
    """Sums over all predicted tokens, and what follows from them."""

    nll: float
    """Negative log likelihood in nats."""
    tokens: int
    bytes: int | None
    """UTF-8 bytes of text that the tokens stand for; None where not every token was predicted."""

    @property
    def loss(self) -> float:
        """Nats a predicted token."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        return torch.tensor(self.loss, dtype=torch.float64).exp().item()  # inf, not an error, beyond e^709

    @property
    def bits_per_byte(self) -> float | None:
        return None if self.bytes is None else self.nll / math.log(2) / self.bytes


@torch.no_grad()
def score(
    model: PreTrainedModel, blocks: Blocks, *, count: int, micro_batch: int, masked: Masked | None = None, seed: int = 0
) -> Score:
    """Score the first ``count`` blocks; no document sees another, and the result does not depend on ``micro_batch``.

    A causal model predicts every token; with ``masked`` the model fills the gaps that this and ``seed`` choose. One
    that cannot keep packed documents apart is given each in a row of its own, which is slower and exact. Raises
    UserError that names the blocks, and the tensor where there is one, if the loss is not finite, and for a model
    that is of the other kind or answers no document exactly.
    """
    model.eval()
    way = way_of_encoder(model) if masked else way_of_causal(model)
    nll, tokens = 0.0, 0
    with progress("evaluating (blocks)", count) as advance:
        for first in range(0, count, micro_batch):
            indices = range(first, min(first + micro_batch, count))
            batch = blocks.batch(indices)
            if masked:
                batch = masked.prepare(batch, indices, seed)
            batch = on_device(batch, model.device)
            parts = [batch]
            if isinstance(way, Rows):
                parts = list(one_document_a_row(batch, batch.input_ids.numel(), padded=way.padded))
            found = sum(_gaps(model, part) if masked else _every_token(model, part) for part in parts)
            if not math.isfinite(found):
                raise UserError(f"the loss of {_span(indices)} is {found}{_culprit(model)}")
            nll += found
            tokens += int((batch.labels != IGNORED).sum())
            advance(len(indices))
    return Score(nll, tokens, None if masked else blocks.predicted_bytes(range(count)))


def _every_token(model: PreTrainedModel, batch: Batch) -> float:
    return nll_sum(forward_packed(model, batch, isolate=True), batch.labels)


def _gaps(model: PreTrainedModel, batch: Batch) -> float:
    chosen = batch.labels != IGNORED
    logits = forward_at(model, batch, chosen).logits[0]
    return F.cross_entropy(logits.float(), batch.labels[chosen], reduction="none").double().sum().item()


def nll_sum(logits: Tensor, labels: Tensor) -> float:
    """Nats of all labels: (B, N, V) at position i predict (B, N) at i + 1; softmax in float32, sum in float64."""
    # A row at a time: a float32 copy of all logits would be the largest tensor of all.
    return sum(
        F.cross_entropy(row[:-1].float(), wanted[1:], ignore_index=IGNORED, reduction="none").double().sum().item()
        for row, wanted in zip(logits, labels, strict=True)
    )


def _span(indices: range) -> str:
    return f"block {indices[0]}" if len(indices) == 1 else f"blocks {indices[0]} to {indices[-1]}"


def _culprit(model: PreTrainedModel) -> str:
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            return f": tensor {name} holds NaN or infinity"
    return f" though all weights are finite: {model.dtype} overflows; convert the model to another dtype"
