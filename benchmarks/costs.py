"""What a command costs, and commands that take turns."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import child

LONG = 45.0  # seconds after which no further round begins
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}


@dataclass(frozen=True)
class Cost:
    """Of one run of a command, with all the processes that it started and waited for."""

    seconds: float
    """Of wall time."""
    cpu_seconds: float
    peak_bytes: int
    """Resident set of the largest of its processes (``ru_maxrss``)."""


def cost_of(command: Sequence[str | Path], *, threads: int | None = None) -> Cost:
    """Run a command in a process of its own; ``threads`` bounds those of matrix products.

    RuntimeError with the end of its output where it fails.
    """
    environment = os.environ | QUIET | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    words = [str(word) for word in command]
    with tempfile.NamedTemporaryFile() as told, tempfile.TemporaryFile() as output:
        alone = [sys.executable, "-S", child.__file__, told.name, *words]
        ended = subprocess.run(alone, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if ended.returncode:
            output.seek(0)
            end = output.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(words)} ended with status {ended.returncode}\n{end}")
        return Cost(**json.load(told))


def cost_of_making(out: Path, command: Sequence[str | Path]) -> Cost:
    """Of a command that writes the folder ``out``, which is not there before."""
    shutil.rmtree(out, ignore_errors=True)
    return cost_of(command)


def clpds(*words: str | Path) -> list[str]:
    """The command line of ours."""
    return [sys.executable, "-m", "clpds", *(str(word) for word in words)]


def take_turns(entrants: Mapping[str, Callable[[], Cost]], rounds: int, *, at_least: int = 1) -> dict[str, list[Cost]]:
    """Each once, ``rounds`` times over: whatever else the machine does then hits all alike.

    Where they take long there are fewer rounds, but ``at_least`` so many: after ``LONG`` seconds none begins.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in entrants}
    begin = time.monotonic()
    for number in range(rounds):
        if number >= at_least and time.monotonic() - begin > LONG:
            break
        names = list(entrants) if number % 2 == 0 else list(entrants)[::-1]
        for name in names:
            costs[name].append(entrants[name]())
    return costs


def seconds(costs: Sequence[Cost]) -> float:
    """The median."""
    return statistics.median(cost.seconds for cost in costs)


def peak(costs: Sequence[Cost]) -> int:
    """The largest, in bytes."""
    return max(cost.peak_bytes for cost in costs)


def told(costs: Sequence[Cost]) -> str:
    """``12.3 s, 1.85 GiB``: the median, and the most memory."""
    return f"{seconds(costs):,.1f} s, {peak(costs) / 2**30:.2f} GiB"


def times(slower: Sequence[Cost], faster: Sequence[Cost]) -> float:
    """How many times the seconds of the one the other takes: the median over the rounds."""
    return ratio([cost.seconds for cost in slower], [cost.seconds for cost in faster])


def ratio(numbers: Sequence[float], others: Sequence[float]) -> float:
    """The median over the rounds of one number over the other of its round."""
    return statistics.median(one / other for one, other in zip(numbers, others, strict=True))
