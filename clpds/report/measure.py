"""What a run's metrics say: curves, what it costs to reach a loss, and the spread over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clpds.run_folder import read_metrics


@dataclass(frozen=True)
class Curve:
    """A quality at some points of a training; all arrays (points,) float64."""

    steps: np.ndarray
    tokens: np.ndarray
    """Predicted tokens seen."""
    flops: np.ndarray
    """Model FLOPs spent, as the trainer counts them."""
    seconds: np.ndarray
    """Spent in training steps, without validation and saving."""
    quality: np.ndarray
    """A loss, or an accuracy."""


def read_curve(run: Path, corpus: str = "heldout") -> Curve:
    """The validation loss of a training run, from its metrics; the first point is before the first step."""
    points = [line for line in read_metrics(run) if corpus in line.get("validation", {})]
    steps = [line["step"] for line in points]
    loss = [line["validation"][corpus]["loss"] for line in points]
    return Curve(*spent_until(run, steps), np.array(loss))


def validated(run: Path) -> list[str]:
    """The names of the data that the run has been validated on."""
    return list(dict.fromkeys(name for line in read_metrics(run) for name in line.get("validation", {})))


def spent_until(run: Path, steps: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, predicted tokens, FLOPs and seconds that a run had spent after each of ``steps``.

    Of steps that are not logged the cost is that of the next logged one.
    """
    logged = [{"step": 0, "tokens": 0}, *(line for line in read_metrics(run) if "loss" in line)]
    at = np.array([line["step"] for line in logged], np.float64)
    flops, seconds = [0.0], [0.0]
    for number, line in enumerate(logged[1:]):
        passed = line["step"] - logged[number]["step"]
        flops.append(flops[-1] + passed * line["model_flops"])
        seconds.append(seconds[-1] + passed * line["model_flops"] / line["model_flops_per_second_and_rank"])
    tokens = np.array([line["tokens"] for line in logged], np.float64)
    asked = np.array(steps, np.float64)
    return asked, *(np.interp(asked, at, np.array(values)) for values in (tokens, flops, seconds))


def total_flops(run: Path) -> float:
    """Model FLOPs of a training run, to its last logged step."""
    last = max(line["step"] for line in read_metrics(run))
    return float(spent_until(run, [last])[2][0])


def cost_to_reach(cost: np.ndarray, quality: np.ndarray, goal: float, *, higher: bool = False) -> float | None:
    """The cost at which ``quality``, the best so far, first reaches ``goal``, between points by the line through them.

    ``cost`` and ``quality`` (points,); None where it is never reached. A loss falls; ``higher`` for an accuracy.
    """
    sign = 1.0 if higher else -1.0
    best = np.maximum.accumulate(sign * quality)
    reached = np.flatnonzero(best >= sign * goal)
    if not len(reached):
        return None
    first = int(reached[0])
    if first == 0:
        return float(cost[0])
    share = (sign * goal - best[first - 1]) / (best[first] - best[first - 1])
    return float(cost[first - 1] + share * (cost[first] - cost[first - 1]))


@dataclass(frozen=True)
class Spread:
    """A number over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """Standard deviation of a sample; 0 for one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    def said(self, form: str = ".2f") -> str:
        """``1.93 ± 0.04``."""
        return f"{self.mean:{form}} ± {self.deviation:{form}}" if len(self.values) > 1 else f"{self.mean:{form}}"
