"""A run's folder belongs to one job at a time, which ``job.json`` names, and to one training: ``lock`` names that.

The job is asked of Slurm. The training holds a lock that ends with its processes, whoever ends them.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from clpds.errors import UserError
from clpds.folders.claim import InUseError, flock, made_parents
from clpds.folders.ours import is_run, require_run_folder
from clpds.refusals import require_given
from clpds.run_folder import write_state
from launcher.slurm import in_queue, own_job

FILE = "job.json"
LOCK = "lock"
PATIENCE = 5.0  # seconds for the ranks of an earlier start to be gone


def take(run: Path) -> IO[str]:
    """What rank 0 does before anything in the run's folder is read or changed: lock it, and say who has it.

    The run is free again when the file is closed and those of ``join``, at the latest when the processes end. The
    folder is made where it does not exist. Raises InUseError that names the owner where ranks of another start live.
    """
    require_run_folder(run)
    run.mkdir(parents=True, exist_ok=True)
    file = (run / LOCK).open("a+", encoding="utf-8")
    deadline = time.monotonic() + PATIENCE
    while not flock(file.fileno(), fcntl.LOCK_EX):  # fails as long as any rank of another start shares the lock
        if time.monotonic() > deadline:
            file.seek(0)
            raise InUseError(
                f"{run} is in use by {file.read().strip() or 'another training'}: wait for it or choose another out; "
                f"if no such process is left, remove {run / LOCK}"
            )
        time.sleep(0.1)
    job = own_job()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}{f', job {job}' if job else ''}\n")
    file.flush()
    if not is_run(run):
        write_state(run, "starting")  # from here on the folder is provably a run's
    return _shared(run, file)


def join(run: Path) -> IO[str]:
    """What the other ranks do once rank 0 has taken the run, so that it is in use until the last of them has ended."""
    return _shared(run, (run / LOCK).open(encoding="utf-8"))


def _shared(run: Path, file: IO[str]) -> IO[str]:
    if not flock(file.fileno(), fcntl.LOCK_SH):
        raise InUseError(f"{run} was taken by another training at this moment; choose another out")
    return file


@contextmanager
def taking(run: Path, job: str | None = None) -> Iterator[IO[str]]:
    """Hold the run's folder, which is made where it does not exist, while its new owner is written with `own`.

    ``job`` is the one that asks. Raises UserError that names the owner where another job, waiting or running, has it.
    """
    require_run_folder(run)
    with made_parents(run / FILE), _removed_after_error(run / FILE), (run / FILE).open("a+", encoding="utf-8") as file:
        with suppress(OSError):  # a file system without locks: two submissions in the same second are not kept apart
            fcntl.flock(file, fcntl.LOCK_EX)
        owner = read_owner(run).get("job")
        if owner is not None and owner != job and in_queue(owner):
            raise UserError(f"{run} is the folder of job {owner}, still in the queue; wait, or scancel {owner}")
        yield file


@contextmanager
def _removed_after_error(file: Path) -> Iterator[None]:
    """Remove ``file`` after an error unless it was there before."""
    there = file.exists()
    try:
        yield
    except BaseException:
        if not there:
            file.unlink(missing_ok=True)
        raise


def own(file: IO[str], job: str, submission: Path | None = None) -> None:
    """Write the owner into the open file; ``submission`` is the folder of the scripts it came with."""
    file.truncate(0)
    file.write(json.dumps({"job": job, "submission": submission and str(submission)}) + "\n")
    file.flush()


def read_owner(run: Path) -> dict[str, Any]:
    """``job`` and ``submission`` of the run's last owner; empty where it never had one."""
    try:
        text = (run / FILE).read_text(encoding="utf-8")
        document: dict[str, Any] = json.loads(text) if text.strip() else {}
        if document and "job" not in document:
            raise ValueError("it names no job")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        require_given(run / FILE, error)
        raise UserError(f"{run / FILE} cannot be read ({error}); remove it if no job uses the folder") from error
    return document
