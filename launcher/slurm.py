"""Slurm's commands: which job is this, submit one, ask for its state."""

import os
import subprocess
from collections.abc import Sequence

from clpds.errors import UserError

FORGOTTEN = "Invalid job id"  # squeue, of a job that ended some minutes ago


def own_job() -> str | None:
    """The id of the job that this process is in, None outside of Slurm; of a task of an array ``ARRAY_TASK``.

    Such a task has a number of its own as well, but the last one's is the array's, and Slurm takes that for all tasks.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def command(*words: str) -> str:
    """What the command prints; UserError with its own complaint where it fails or does not exist."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"{words[0]} is not found: is this a machine of a Slurm cluster?") from None
    if done.returncode:
        complaint = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"{words[0]} says: {complaint[-1].removeprefix(f'{words[0]}: ').removeprefix('error: ')}")
    return done.stdout.strip()


def sbatch(script: str, after: Sequence[str]) -> str:
    """Submit a script that starts when the jobs ``after`` have ended well, and is dropped if one does not; its id."""
    chained = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    return command("sbatch", "--parsable", *chained, script).partition(";")[0]


def job_state(job: str) -> str | None:
    """``PENDING``, ``RUNNING`` and so on; ``COMPLETED`` or ``FAILED`` for some minutes; None once forgotten."""
    try:
        states = command("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").split()
    except UserError as error:
        if FORGOTTEN in str(error):
            return None
        raise
    return ", ".join(dict.fromkeys(states)) or None  # an array has one for each of its jobs


ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


def in_queue(job: str) -> bool:
    """Whether the job waits, runs or will run again."""
    state = job_state(job)
    return state is not None and not set(state.split(", ")) <= ENDED
