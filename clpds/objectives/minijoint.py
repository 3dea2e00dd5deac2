"""MiniJoint (Marchisio et al. 2023, arXiv 2212.10503): one masked batch, two heads, a weighted sum of their losses."""

from dataclasses import dataclass

from torch import Tensor, nn

from clpds.data.blocks import IGNORED, Batch
from clpds.errors import UserError
from clpds.models.encoder import forward_at
from clpds.models.layout import bare, trimmed
from clpds.models.minijoint import MiniJoint
from clpds.objectives.masked import Masked, nll_sum


@dataclass(frozen=True, eq=False, kw_only=True)
class MiniJointMasked(Masked):
    """Masked language modelling by the middle head and the top head at once."""

    mini_weight: float
    """Share of the middle head's loss in the sum; the top head's is the rest."""

    def check(self, model: nn.Module) -> None:
        """Raise UserError for a model without a middle head."""
        super().check(model)
        inner = bare(model)
        if not isinstance(inner, MiniJoint):
            raise UserError(f"{type(inner).__name__} has no middle head; make one with `clpds init --method minijoint`")

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Weighted sum of both heads' negative log likelihoods in nats (float32 scalar)."""
        if self.single:
            batch = trimmed(batch)
        chosen = batch.labels != IGNORED
        output, wanted = forward_at(model, batch, chosen), batch.labels[chosen]
        mini, top = nll_sum(output.mini_logits[0], wanted), nll_sum(output.logits[0], wanted)
        return self.mini_weight * mini + (1 - self.mini_weight) * top
