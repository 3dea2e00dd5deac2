"""A run's folder belongs to one job at a time: ``job.json`` in it names the owner."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from clpds.errors import UserError
from clpds.output import made_folder
from launcher.slurm import in_queue

FILE = "job.json"


@contextmanager
def taking(run: Path, job: str | None = None) -> Iterator[IO[str]]:
    """Hold the run's folder, which is made where it does not exist, while its new owner is written with `own`.

    ``job`` is the one that asks. Raises UserError that names the owner where another job, waiting or running, has it.
    """
    with made_folder(run), (run / FILE).open("a+", encoding="utf-8") as file:
        with suppress(OSError):  # a file system without locks: two submissions in the same second are not kept apart
            fcntl.flock(file, fcntl.LOCK_EX)
        owner = read_owner(run).get("job")
        if owner is not None and owner != job and in_queue(owner):
            raise UserError(f"{run} is the folder of job {owner}, still in the queue; wait, or scancel {owner}")
        yield file


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
        raise UserError(f"{run / FILE} cannot be read ({error}); remove it if no job uses the folder") from error
    return document
