"""Arms of a comparison, each trained at its own best learning rate, on the same data in the same order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clpds.report.measure import Curve, read_curve
from clpds.reproduction.lab import Lab

Arm = Callable[[float, int], tuple[Path, Path]]
"""From a learning rate and a seed to the recipe and the training run in it."""


@dataclass(frozen=True)
class Raced:
    """What became of an arm."""

    lr: float
    tried: dict[float, float]
    """Learning rate to what it was judged by, of seed 0; lower is better."""
    runs: list[Path]
    """One a seed, at the best learning rate."""

    @cached_property
    def curves(self) -> list[Curve]:
        """Validation loss of each seed, read once: a table, two figures and the JSON ask for them."""
        return [read_curve(run) for run in self.runs]

    @property
    def lasts(self) -> tuple[float, ...]:
        """Loss after the last step, one a seed."""
        return tuple(float(curve.quality[-1]) for curve in self.curves)

    @property
    def flops(self) -> float:
        """Of one run."""
        return float(self.curves[0].flops[-1])


def last_loss(run: Path) -> float:
    """On the held-out text, after the last step."""
    return float(read_curve(run).quality[-1])


def race(
    lab: Lab, arms: Mapping[str, Arm], rates: Mapping[str, Sequence[float]], judge: Callable[[Path], float] = last_loss
) -> dict[str, Raced]:
    """Seed 0 of every arm at its rates; the others at the rate that ``judge``, for which lower is better, prefers."""
    lab.run("learning rates", [arm(lr, 0)[0] for name, arm in arms.items() for lr in rates[name]])
    tried = {name: {lr: judge(arm(lr, 0)[1]) for lr in rates[name]} for name, arm in arms.items()}
    best = {name: min(scores, key=lambda lr: scores[lr]) for name, scores in tried.items()}
    lab.run("seeds", [arm(best[name], seed)[0] for name, arm in arms.items() for seed in range(lab.seeds)])
    return {
        name: Raced(best[name], tried[name], [arm(best[name], seed)[1] for seed in range(lab.seeds)])
        for name, arm in arms.items()
    }
