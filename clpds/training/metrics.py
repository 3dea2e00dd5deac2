"""What a run tells: metrics.jsonl, TensorBoard, one line or bar on the screen. Rank 0 only."""

import json
import os
import resource
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from clpds.output import naming, write_text
from clpds.run_folder import METRICS, read_metrics
from clpds.training.divergence import WINDOW, spikes


class Metrics:
    """Open for the steps after ``start``; lines of later steps, from a run that was cut off, are dropped."""

    def __init__(self, run: Path, *, start: int, steps: int) -> None:
        self.path = run / METRICS
        self.refused: OSError | None = None
        """Why a line could not be written; the run then ends, since a gap would stay."""
        # Nothing is kept of a run that begins again from nothing: it measures the loss at step 0 again.
        lines = [line for line in read_metrics(run) if start and line["step"] <= start]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        self._losses = deque((line["loss"] for line in lines if line.get("loss") is not None), maxlen=WINDOW + 2)
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self._steps = steps
        self._printed = 0.0
        if self._bar:
            self._task = self._bar.add_task(f"training {run.name}", total=steps, completed=start, note="")
            self._bar.start()

    def log(self, step: int, **values: Any) -> None:
        """Append a line; nested values become ``validation/german/loss`` in TensorBoard."""
        spike = self._is_spike(values.get("loss"))
        if spike:
            usual = median(list(self._losses)[:-1])
            self.say(f"step {step}: the loss jumps to {values['loss']:.3f}; the median before was {usual:.3f}")
        try:
            with naming(self.path):
                self._file.write(json.dumps({"step": step, **values, **({"spike": True} if spike else {})}) + "\n")
                self._file.flush()
            for name, value in _flatten(values):
                self._board.add_scalar(name, value, step)
        except OSError as error:
            self.refused = error
        if "loss" in values:
            loss = "not finite" if values["loss"] is None else f"{values['loss']:.3f}"
            self._show(step, f"loss {loss}, {values['tokens_per_second']:,.0f} tokens/s")
        for corpus, score in values.get("validation", {}).items():
            bits = f", {score['bits_per_byte']:.3f} bits per byte" if "bits_per_byte" in score else ""
            self.say(f"step {step}: validation on {corpus}: loss {score['loss']:.3f}{bits}")

    def say(self, text: str) -> None:
        """A line on the screen, above the bar."""
        if self._bar:
            self._bar.console.print(text, highlight=False)
        else:
            sys.stderr.write(text + "\n")

    def sync(self) -> None:
        """Make all lines survive a power cut, before a checkpoint says that their steps are done; or OSError."""
        if self.refused:
            raise self.refused
        with naming(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write out everything."""
        if self._bar:
            self._bar.stop()
        with suppress(OSError):  # of a disk that is full: `sync` has said so
            self._board.close()
            self._file.close()

    def _is_spike(self, loss: float | None) -> bool:
        if loss is None:  # not finite, or a line without one
            return False
        self._losses.append(loss)
        return spikes(list(self._losses))

    def _show(self, step: int, note: str) -> None:
        if self._bar:
            self._bar.update(self._task, completed=step, note=note)
        elif time.monotonic() - self._printed > 30 or step == self._steps:  # a log file, not a screen
            self._printed = time.monotonic()
            sys.stderr.write(f"step {step}/{self._steps}: {note}\n")


def memory_peak(device: torch.device) -> int:
    """Largest memory of this rank so far, in bytes: the accelerator's, or the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{name}/")
        elif value is not None:
            flat.append((prefix + name, value))
    return flat
