"""TreLM's cross-lingual objective (Li et al. 2021, arXiv 2107.12627): a sentence out of its translation.

A translation goes unmasked through the lower half of a TRILayer model, is put into the sentence's order, and all tokens
of the sentence are predicted at once, special ones included. As many samples are sentences of the new
language from which tokens are hidden, as in masked language modelling. Both kinds add up to one mean over predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clpds.data.blocks import IGNORED
from clpds.data.pairs import PairBatch
from clpds.errors import UserError
from clpds.models.encoder import call_at, has_languages
from clpds.models.layout import bare
from clpds.objectives.masked import Masked, nll_sum


@dataclass(frozen=True, eq=False)
class Cdlm:
    """Pairs of sentences, and sentences with gaps."""

    masked: Masked
    every_token: bool = False

    def check(self, model: nn.Module) -> None:
        """Raise UserError for a model without a TRILayer."""
        if not has_languages(model):
            kind = type(bare(model)).__name__
            raise UserError(f"{kind} has no TRILayer, which cdlm trains; make a model with `clpds init --trilayer`")

    def prepare(self, batch: PairBatch, samples: Sequence[int], seed: int) -> PairBatch:
        """Hide tokens of the sentences that are no translations, and cut off the padding that all rows have."""
        translated = batch.translated[:, None]
        gaps = self.masked.prepare(batch._replace(labels=batch.labels.masked_fill(translated, IGNORED)), samples, seed)
        labels = torch.where(translated, batch.labels, gaps.labels)
        width = int((batch.attention_mask | batch.target_mask).sum(dim=1).max()) + 1  # with the dummy
        batch = batch._replace(input_ids=gaps.input_ids, labels=labels)
        return PairBatch(*(tensor[:, :width] if tensor.dim() == 2 else tensor for tensor in batch))

    def count(self, batch: PairBatch) -> int:
        """All tokens of the written sentences, and the hidden ones of the others."""
        return int((batch.labels != IGNORED).sum())

    def loss_sum(self, model: nn.Module, batch: PairBatch) -> Tensor:
        """Negative log likelihood of these tokens in nats (float32 scalar)."""
        chosen = batch.labels != IGNORED
        output = call_at(
            model,
            chosen,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            language_ids=batch.language_ids,
            alignment=batch.alignment,
            target_language_ids=batch.target_language_ids,
            target_attention_mask=batch.target_mask,
        )
        return nll_sum(output.logits[0], batch.labels[chosen])
