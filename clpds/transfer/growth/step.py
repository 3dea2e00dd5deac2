"""Growth in the verb init: from its options to the grown source, and what is told of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from clpds.checkpoint import Checkpoint
from clpds.errors import UserError
from clpds.recipe import Init
from clpds.transfer.growth.expand import Fill
from clpds.transfer.growth.grow import grow
from clpds.transfer.growth.measure import Difference, measure
from clpds.transfer.growth.plan import Growth, Plan, plan, sizes

SLACK = 1e-3  # of the largest logit: float32 sums in another order
ROUNDINGS = 30  # of the source's type, layer after layer

HOW: dict[Fill, str] = {
    "zero": "new coordinates of the stream hold zero",
    "mean": "new coordinates of the stream hold the mean of the old",
    "copy": "coordinates are repeated and what reads them is split into unequal shares",
    "unread": "what new heads and neurons say is not read",
}


@dataclass(frozen=True)
class Grown:
    """The grown source, and what was done to it."""

    source: Checkpoint
    before: Mapping[str, int]
    after: Mapping[str, int]
    plan: Plan
    difference: Difference | None

    @property
    def change(self) -> str:
        """``width 576 -> 1152, layers 30 -> 40``: the sizes that grew."""
        grew = [f"{name} {old} -> {self.after[name]}" for name, old in self.before.items() if old < self.after[name]]
        return ", ".join(grew)

    @property
    def how(self) -> str:
        """The fill, and what it means here."""
        used = {axis.fill for axis in self.plan.axes.values()}
        ways = [f"fill {self.plan.fill}", *(text for fill, text in HOW.items() if fill in used)]
        if any(new for _, new in self.plan.layers):
            ways.append("new layers start as the identity")
        return "; ".join(ways if used else ways[1:]) + (f"; noise {self.plan.noise:g}" if self.plan.noise else "")

    @property
    def measured(self) -> str:
        """How far the logits are from the source's, in words."""
        if self.difference is None:
            return "not measured, as one layer is too large to be held"
        first = self.difference.layers
        of = f" (the first {first} of {self.before['layers']} layers)" if first < self.before["layers"] else ""
        return f"{self.difference.relative:.1e} of the largest logit{of}"

    def facts(self) -> dict[str, Any]:
        """For provenance.json."""
        return {
            "before": dict(self.before),
            "after": dict(self.after),
            "fill": self.plan.fill,
            "noise": self.plan.noise,
            "logit_difference": None if self.difference is None else asdict(self.difference),
        }

    def card(self) -> str:
        """For the model card."""
        return (
            f"The body was grown: {self.change}.\n{self.how[0].upper()}{self.how[1:]}.\n"
            f"Largest difference between the logits of the grown and the small model: {self.measured}."
        )


def growth_of(step: Init) -> Growth:
    """The options of ``step`` that are growth's."""
    return Growth(
        width=step.width,
        heads=step.heads,
        feed_forward=step.feed_forward,
        depth=step.depth,
        fill=step.fill,
        noise=step.noise,
        seed=step.seed,
    )


def grow_source(step: Init, source: Checkpoint) -> Grown:
    """Grow ``source`` as ``step`` says and measure what that changes; UserError as ``grow``.

    And where what is to be the same function is not, beyond what the source's type rounds away.
    """
    growth = growth_of(step)
    grown = grow(source, growth)
    made = Grown(
        grown,
        sizes(source.config),
        sizes(grown.config),
        plan(source.config, growth),
        measure(source, growth),
    )
    off = 0.0 if made.difference is None else made.difference.relative
    rounded = max(torch.finfo(tensor.dtype).eps for tensor in source.tensors.values() if tensor.dtype.is_floating_point)
    if not made.plan.noise and not off <= max(SLACK, ROUNDINGS * rounded):
        raise UserError(
            f"{source.path}: growing ({made.change}) would not keep what this {source.config.model_type} computes: "
            f"the grown model's logits are off by {made.measured}; nothing was written"
        )
    return made
