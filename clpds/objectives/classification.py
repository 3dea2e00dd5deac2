"""Classification of short texts: a class for each, by a linear layer on what the encoder makes of its first token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from clpds.data.blocks import Batch
from clpds.errors import UserError
from clpds.models.encoder import language_inputs
from clpds.models.layout import bare, real_tokens


@dataclass(frozen=True)
class Classification:
    """One of ``classes`` for every text; a text is a block."""

    classes: tuple[str, ...]
    every_token: bool = False

    def check(self, model: nn.Module) -> None:
        """Raise UserError for a model without a classifier, or one of other classes."""
        inner = bare(model)
        if not type(inner).__name__.endswith("ForSequenceClassification"):
            raise UserError(f"{type(inner).__name__} has no classifier; train one with objective: classification")
        known = [inner.config.id2label[number] for number in range(inner.config.num_labels)]
        if known != list(self.classes):
            raise UserError(f"the model tells {', '.join(known)}; the texts are of {', '.join(self.classes)}")

    def prepare(self, batch: Batch, samples: Sequence[int], seed: int) -> Batch:
        """The batch as it is."""
        return batch

    def count(self, batch: Batch) -> int:
        """Texts."""
        return len(batch.labels)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Negative log likelihood of the texts' classes in nats (float32 scalar)."""
        return F.cross_entropy(class_logits(model, batch).float(), batch.labels[:, 0], reduction="sum")


def class_logits(model: nn.Module, batch: Batch) -> Tensor:
    """(B, C) of a sequence classifier or a DeepSpeed engine around one; padding is hidden from it."""
    logits: Tensor = model(
        input_ids=batch.input_ids,
        attention_mask=real_tokens(batch).long(),
        **language_inputs(model, batch.language_ids),
    ).logits
    return logits
