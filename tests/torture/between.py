"""What else happens to a run between two kills."""

import os
import shutil
import signal
import time
from pathlib import Path

from tests.torture import compare
from tests.torture.starting import Start
from tests.torture.training import Training

YEAR = 365 * 86400


def await_steps(run: Path, start: Start, count: int) -> None:
    """Wait until there are so many more lines of metrics than the last start left."""
    before = compare.lines(run)
    while start.running() and compare.lines(run) < before + count:
        time.sleep(0.005)


def second_start_is_refused(training: Training, start: Start, run: str) -> None:
    """While the first start is held still in its training, a second one ends with one line that names the owner."""
    folder = training.folder / run
    ranks = sorted(start.ranks)
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    state = (folder / "state.json").read_bytes(), compare.listing(folder)
    second = training.start(run)
    status, said = second.end(), second.log.read_text()
    assert status == 2, said
    assert any(f"is in use by process {rank} on " in said for rank in ranks), said
    assert said.count("error:") == 1, said
    assert ((folder / "state.json").read_bytes(), compare.listing(folder)) == state
    for rank in ranks:
        os.kill(rank, signal.SIGCONT)
    print("    a second start was refused", flush=True)


def moved(training: Training, run: str) -> str:
    """The run's folder at another path; the old one is gone."""
    shutil.copytree(training.folder / run, training.folder / "elsewhere")
    shutil.rmtree(training.folder / run)
    print("    the run was copied to another path", flush=True)
    return "elsewhere"


def clock_set_back(run: Path) -> None:
    """All that was written so far is a year younger than what comes."""
    for path in run.rglob("*"):
        os.utime(path, (time.time() + YEAR, time.time() + YEAR))
    print("    the clock was set back by a year", flush=True)
