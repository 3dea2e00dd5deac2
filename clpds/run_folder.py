"""What a training run leaves in its folder, read and written without torch.

The trainer, the batch script and a login node meet here: ``checkpoints/``, ``state.json`` (how the run stands),
``stop`` (a wish that it end at the next step), ``metrics.jsonl``.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clpds.bounds import POINTER, RECORD
from clpds.errors import UnreadableError, UserError
from clpds.inside import read_json, read_text
from clpds.manifest import check_manifest
from clpds.output import write_text
from clpds.refusals import require_given
from launcher.slurm import own_job

LATEST = "latest"
TRAINER = "trainer.json"
STATE = "state.json"
STOP = "stop"
METRICS = "metrics.jsonl"
STAGE = "stage.json"
MODEL = "model"  # config and tokenizer, for `clpds convert`
INITIAL = "initial"  # fresh weights, where the stage started from a config
BAD_NODES = "bad_nodes"  # left by a preflight that failed: a node's name a line, as Slurm calls it
REQUEUE = "requeue"  # in the stop file: the wish is the batch script's, which will start the run again


@dataclass(frozen=True)
class State:
    """How a run stands, by its own account; ``state.json``."""

    state: Literal["starting", "training", "interrupted", "stopped", "finished", "failed"]
    """Interrupted: saved because of a signal, to go on as soon as possible. Stopped: because of a stop file.

    A run whose ranks died without a word is still "starting" or "training".
    """
    step: int = 0
    """Optimizer steps done."""
    reason: str = ""
    """Of a failure: what was wrong."""
    job: str | None = None
    """The Slurm job, where there is one; of an array ``ARRAY_TASK``."""


def write_state(run: Path, state: str, *, step: int = 0, reason: str = "") -> None:
    """Note how the run stands; the folder exists."""
    document = {"state": state, "step": step, "reason": reason, "job": own_job()}
    write_text(run / STATE, json.dumps(document, indent=2) + "\n")


def read_state(run: Path) -> State | None:
    """How the run stands; None where it has not said, UserError where that cannot be read."""
    path = run / STATE
    try:
        return State(**read_json(path, RECORD))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        require_given(path, error)
        raise UserError(f"{path} cannot be read ({error}); remove it") from error


def ask_to_stop(run: Path, *, requeue: bool) -> None:
    """Let the ranks save and end at their next step boundary."""
    (run / STOP).write_text(REQUEUE + "\n" if requeue else "")


def asked_to_stop(run: Path) -> bool:
    """Whether there is a stop file; one call to the file system."""
    return (run / STOP).exists()


def take_stop(run: Path) -> bool:
    """Remove the stop file; returns whether it was there and a person's wish: not to be started again."""
    path = run / STOP
    try:
        wish = read_text(path, POINTER).strip()
        path.unlink()
    except FileNotFoundError:
        return False
    return wish != REQUEUE


def whole_checkpoints(run: Path) -> list[Path]:
    """The run's complete checkpoints, oldest first.

    Raises UnreadableError for one that the system does not let us read: it may be whole.
    """
    parent = run / "checkpoints"
    try:
        folders = list(parent.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        require_given(parent, error)
        raise
    return sorted(folder for folder in folders if re.fullmatch(r"step-\d{8}", folder.name) and not problems(folder))


def read_trainer(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's ``trainer.json``; UserError where that cannot be read."""
    path = checkpoint / TRAINER
    try:
        document: dict[str, Any] = read_json(path, RECORD)
        if not isinstance(document["step"], int):
            raise ValueError("no step")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        require_given(path, error)
        raise UserError(f"{path} cannot be read ({error}); remove {checkpoint} to use the one before") from error
    return document


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, none where there is no such file; UserError that names a damaged one.

    The last line may be what a process that was killed had written of it, and is then left out.
    """
    path, found = run / METRICS, []
    lines = read_text(path, RECORD, errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            document = json.loads(line)
            if not isinstance(document["step"], int):
                raise ValueError("no step")
            found.append(document)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number < len(lines):
                raise UserError(f"line {number} of {path} is no line of metrics; mend or remove it") from error
    return found


def saved_step(run: Path) -> int:
    """The step of the newest whole checkpoint; 0 where there is none."""
    whole = whole_checkpoints(run)
    return int(read_trainer(whole[-1])["step"]) if whole else 0


def problems(checkpoint: Path) -> list[str]:
    """Why the checkpoint is not whole, by the names and sizes of its files; empty where it is. Or UnreadableError."""
    try:
        return check_manifest(checkpoint, deep=False)
    except UnreadableError:
        raise
    except OSError as error:
        require_given(checkpoint, error)
        raise
    except UserError as error:
        return [str(error)]
