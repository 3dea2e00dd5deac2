"""The rows of a benchmark, on the screen and as JSON."""

import json
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

HOLDS = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Row:
    """One thing measured, beside its peer and what is to be reached."""

    what: str
    ours: str
    peer: str
    """What a user would take instead and what it costs; empty where there is none."""
    value: float
    """What is compared with the bound, in ``unit``."""
    unit: Literal["x", "s", "GiB", "%"]
    sense: Literal[">=", "<=", "<"] | None = None
    """None where nothing is asked."""
    bound: float = 0.0
    detail: dict[str, Any] = field(default_factory=dict)
    """For the JSON file: every round's figures."""

    @property
    def met(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        return None if self.sense is None else bool(HOLDS[self.sense](self.value, self.bound))

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        asked = f"{self.sense} {said(self.bound, self.unit)}" if self.sense else ""
        met = {True: "yes", False: "no", None: ""}[self.met]
        return self.what, self.ours, self.peer, said(self.value, self.unit), asked, met


def said(value: float, unit: str) -> str:
    """``12x``, ``0.42 s``, ``1.8 GiB``, ``0.3 %``."""
    digits = f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return digits + ("x" if unit == "x" else f" {unit}")


HEADER = ("what", "ours", "peer", "measured", "asked", "met")


def show(name: str, rows: Sequence[Row]) -> None:
    """Print a benchmark's table."""
    table = Table(*HEADER, title=name, title_justify="left", box=box.SIMPLE)
    for row in rows:
        table.add_row(*row.cells())
    Console(highlight=False, markup=False).print(table)


def write(path: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    """Rows, and what they were measured with."""
    told = [asdict(row) | {"met": row.met} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "rows": told}, indent=2) + "\n", encoding="utf-8")
