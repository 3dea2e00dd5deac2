"""What a measurement comes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Line:
    """One arm of a comparison in a figure, a curve a seed."""

    label: str
    x: Sequence[np.ndarray]
    """(points,) a seed."""
    y: Sequence[np.ndarray]
    """(points,) a seed."""


@dataclass(frozen=True)
class Figure:
    """Curves over a cost."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    goal: tuple[str, float] | None = None
    """A level of y that is marked, with its name."""
    log: bool = False
    """Whether x is drawn on a logarithmic scale; points at 0 are then left out."""


@dataclass(frozen=True)
class Result:
    """A measurement, beside a claim or alone."""

    title: str
    paper: str
    """Empty, as what it claims, where runs are compared that stand for no paper."""
    published: str
    """What the paper claims, in a sentence."""
    measured: str
    """What was measured here, in a sentence or two."""
    shown: bool | None
    """Whether the claim's direction shows beyond the spread over seeds."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: Sequence[Figure]
    settings: Sequence[tuple[str, str]]
    """How it was done, for a reader who wants to judge it."""
    numbers: dict[str, Any]
    """Every number, by arm and seed."""
