"""Compute that an arm saves on the way to where the baseline ends: numbers, rows of a table, figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clpds.report.measure import Spread, cost_to_reach
from clpds.report.result import Figure, Line
from clpds.reproduction.race import Raced


@dataclass(frozen=True)
class Savings:
    """Of one arm."""

    raced: Raced
    shares: tuple[float, ...]
    """Of the baseline's steps, saved, one a seed; -1 where its last loss was not reached."""
    reached: int
    """Seeds that reached the baseline's last loss."""

    @property
    def least(self) -> float:
        """Over the seeds."""
        return min(self.shares)

    def beats(self, other: "Savings") -> bool:
        """Whether every seed saves more than the same seed of the other."""
        return all(mine > theirs for mine, theirs in zip(self.shares, other.shares, strict=True))

    def said(self) -> str:
        """``62.1% ± 3.0%``, or how many seeds got there at all."""
        if self.reached < len(self.shares):
            return f"{self.reached} of {len(self.shares)} reach it"
        return Spread(self.shares).said(".1%")

    def times(self) -> str:
        """The same as a ratio of efforts: ``2.6x``."""
        return f"{1 / (1 - Spread(self.shares).mean):.1f}x" if self.reached == len(self.shares) else "not reached"


def savings(raced: Mapping[str, Raced], baseline: str) -> dict[str, Savings]:
    """Each arm against the same seed of ``baseline``, from the held-out loss."""
    ends = [curve.quality.min() for curve in raced[baseline].curves]
    return {name: _savings(arm, [float(end) for end in ends]) for name, arm in raced.items()}


def _savings(arm: Raced, goals: list[float]) -> Savings:
    shares = []
    for curve, goal in zip(arm.curves, goals, strict=True):
        steps = cost_to_reach(curve.steps, curve.quality, goal)
        shares.append(-1.0 if steps is None else 1 - steps / float(curve.steps[-1]))
    return Savings(arm, tuple(shares), sum(share >= 0 for share in shares))


HEADER = ("", "first loss", "last loss", "steps saved", "rate")


def table(saved: Mapping[str, Savings], labels: Mapping[str, str]) -> list[list[str]]:
    """A row an arm: loss before and after training, steps saved, learning rate."""
    rows = []
    for name, arm in saved.items():
        first = Spread(tuple(float(curve.quality[0]) for curve in arm.raced.curves)).said()
        rows.append([labels[name], first, Spread(arm.raced.lasts).said(".3f"), arm.said(), f"{arm.raced.lr:g}"])
    return rows


def figures(saved: Mapping[str, Savings], labels: Mapping[str, str], language: str) -> list[Figure]:
    """Held-out loss against predicted tokens and against FLOPs."""

    def lines(cost: str) -> list[Line]:
        return [
            Line(
                labels[name],
                [getattr(curve, cost) for curve in arm.raced.curves],
                [c.quality for c in arm.raced.curves],
            )
            for name, arm in saved.items()
        ]

    title = f"Loss on held-out chapters, {language}, while training."
    return [
        Figure(title, "predicted tokens", "nats a token", lines("tokens")),
        Figure(title, "model FLOPs", "nats a token", lines("flops"), log=True),
    ]


def numbers(saved: Mapping[str, Savings]) -> dict[str, Any]:
    """Every number, for JSON."""
    return {
        name: {
            "lr": arm.raced.lr,
            "lr_tried": arm.raced.tried,
            "saved": list(arm.shares),
            "curves": [
                {key: getattr(curve, key).tolist() for key in ("steps", "tokens", "flops", "seconds", "quality")}
                for curve in arm.raced.curves
            ],
        }
        for name, arm in saved.items()
    }
