"""``python -m benchmarks [NAME...]``: what clpds costs, beside what a user would take instead, in the same run.

Prints a table each and writes ``OUT/NAME.json``. Checks that both compute the same. Nothing in the tests depends on it.
"""

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from benchmarks.bench import Bench
from benchmarks.table import show, write

Name = Literal[
    "startup",
    "init_clp", "init_large", "init_wechsel", "init_grow",
    "data", "batches",
    "load", "training_step", "save", "convert",
    "scaling",
]  # fmt: skip


@dataclass(frozen=True)
class Benchmarks:
    """Measure clpds beside its peers."""

    names: Annotated[tuple[Name, ...], tyro.conf.Positional] = ()
    """Which; all when none is named."""
    out: Path = Path("runs/benchmarks")
    """Inputs, peers' environments and results."""
    quick: bool = False
    """Small inputs and one round, in under five minutes."""


def main(options: Benchmarks) -> None:
    """One after the other."""
    console = Console(stderr=True, highlight=False)
    for name in options.names or Name.__args__:  # type: ignore[attr-defined]
        bench = Bench(options.out / name, options.quick)
        bench.folder.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        rows = importlib.import_module(f"benchmarks.{name}").measure(bench)
        show(name, rows)
        write(options.out / f"{name}{'-quick' if options.quick else ''}.json", rows, bench.about())
        console.print(f"{name}: {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(Benchmarks))
