"""``clpds status``: how a run stands, from its folder and from the queue."""

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clpds import manifest
from clpds.bounds import RECORD
from clpds.cli import Status
from clpds.errors import UnreadableError, UserError
from clpds.inside import read_json, read_text
from clpds.refusals import require_given
from clpds.run_folder import METRICS, STAGE, State, read_state, read_trainer, whole_checkpoints
from launcher.owner import read_owner
from launcher.slurm import in_queue, job_state
from launcher.submit import JOBS

RECENT = 20  # logged steps whose median speed foretells the end


def status(options: Status) -> None:
    """Print step, loss, speed, estimated end, last checkpoint and the queue's word on the run's jobs."""
    run = options.run
    if not run.is_dir():
        raise UserError(f"{run} is no folder; name the one that the training stage writes (its out)")
    owner = read_owner(run)
    if not owner and not (run / STAGE).is_file():
        raise UserError(f"{run} is no run: neither training nor clpds submit has written there")
    state = read_state(run)
    with _read(run / METRICS):
        progress = list(_progress(run, state))
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    for what, value in [("state", _say_state(state)), *progress, *_checkpoints(run), *_jobs(owner)]:
        table.add_row(what, value)
    Console(highlight=False, markup=False).print(table)


def _say_state(state: State | None) -> str:
    if state is None:
        return "not started"
    if state.state in ("starting", "training") and state.job is not None:
        with suppress(UserError):  # no Slurm here
            if not in_queue(state.job):
                return f"died while {state.state}: job {state.job} is no longer in the queue"
    return state.state + (f": {state.reason}" if state.reason else "")


def _progress(run: Path, state: State | None) -> Iterator[tuple[str, str]]:
    steps = _steps(run)
    lines = [line for line in _metrics(run) if "loss" in line]
    if not lines or steps is None:
        return
    last = lines[-1]
    done = int(last["step"])
    yield "step", f"{done:,} of {steps:,} ({done / steps:.0%})"
    loss = last["loss"]
    yield "loss", "not finite" if loss is None else f"{loss:.4f}"
    speed = statistics.median(line["tokens_per_second"] for line in lines[-RECENT:])
    yield "speed", f"{speed:,.0f} tokens/s" + (f", {last['mfu']:.0%} of peak" if last.get("mfu") else "")
    written = (run / METRICS).stat().st_mtime
    yield "last line", f"{_ago(written)} ago"
    if done < steps:
        left = (steps - done) * (last["tokens"] / done) / speed
        running = state is not None and state.state == "training"
        end = f", until {datetime.fromtimestamp(written + left):%Y-%m-%d %H:%M}" if running else ""
        yield "to train", f"{_round(left)}{end}"


def _checkpoints(run: Path) -> Iterator[tuple[str, str]]:
    try:
        whole = whole_checkpoints(run)
    except UnreadableError as error:
        yield "checkpoint", str(error)
        return
    if not whole:
        yield "checkpoint", "none yet"
        return
    trainer = read_trainer(whole[-1])
    saved = (whole[-1] / manifest.FILE).stat().st_mtime
    yield "checkpoint", f"{whole[-1].name}, {_ago(saved)} ago, by {trainer['world_size']} ranks"


def _jobs(owner: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A line for each job of the submission."""
    if not owner:
        return
    jobs = {"train": str(owner["job"])}
    if owner.get("submission") and (file := Path(owner["submission"]) / JOBS).is_file():
        with _read(file):
            jobs = dict(read_json(file, RECORD))
    for name, job in jobs.items():
        try:
            yield f"job {job}", f"{name}: {job_state(job) or 'ended, no longer known to the queue'}"
        except UserError as error:
            yield "jobs", f"unknown: {error}"
            return


def _steps(run: Path) -> int | None:
    path = run / STAGE
    if not path.is_file():
        return None
    with _read(path):
        return int(read_json(path, RECORD)["steps"])


def _metrics(run: Path) -> list[dict[str, Any]]:
    path = run / METRICS
    if not path.is_file():
        return []
    # The last line may be half written just now.
    return [json.loads(line) for line in read_text(path, RECORD).splitlines() if line.endswith("}")]


@contextmanager
def _read(path: Path) -> Iterator[None]:
    """UserError that names a file that holds something else than the run has written there."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        require_given(path, error)
        raise UserError(f"{path} cannot be read ({error!r}); was it changed by hand?") from error


def _ago(moment: float) -> str:
    return _round(time.time() - moment)


def _round(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
