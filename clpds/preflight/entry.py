"""``clpds preflight``: what every rank runs, whichever launcher started it. It ends in a minute, whatever hangs."""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

from clpds.cli import Preflight
from clpds.errors import UserError, complain
from launcher.rendezvous import export_rank, no_meeting

REPORTS = 40.0  # seconds after its start that rank 0 waits for the others' reports: torch may take 20 to import
END = 57.0  # seconds after its start that a rank ends, with or without a result


class Waiting:
    """What this rank waits for, in words for its watchdog; None where rank 0 says it."""

    what: str | None = "the launcher's ranks"


def preflight(options: Preflight) -> None:
    """Check all ranks; exits with 0, 1 (a rank is not fit; rank 0 names its node in ``bad_nodes``) or 2."""
    waiting = Waiting()
    watchdog = threading.Timer(END, _give_up, [waiting])
    watchdog.daemon = True
    watchdog.start()
    faulthandler.dump_traceback_later(END + 2, exit=True)  # where a library keeps all of Python waiting
    try:
        export_rank()
        status = check(options.folder, waiting)
    except UserError as error:
        complain("preflight", error)
        status = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # no thread or library of a sick node may hold the job up


def check(folder: Path, waiting: Waiting, *, reports: float = REPORTS, end: float = END) -> int:
    """Exit status of this rank, which knows itself by the five variables; ``reports`` and ``end`` in seconds.

    Raises UserError, on rank 0 only, where ``folder`` cannot be or MASTER_PORT is taken.
    """
    start = time.monotonic()
    waiting.what = "python's packages to load"
    from clpds.preflight.meeting import conduct, follow, store

    rank, address = int(os.environ["RANK"]), f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    waiting.what = f"rank 0 at {address}"
    try:
        if rank > 0:
            return follow(store(reports), folder, waiting)
        shared = store(reports, serve=True)
    except RuntimeError as error:  # torch's errors of the store
        if rank == 0:
            raise no_meeting(error) from error
        sys.stderr.write(f"clpds preflight: {node()} rank {rank}: no talk with rank 0 at {address}: {_first(error)}\n")
        return 1
    waiting.what = f"the folder {folder}"
    # Rank 0's own health is looked at like any other's, so that it can be missing like any other.
    threading.Thread(target=lambda: follow(store(reports), folder, waiting), daemon=True).start()
    return conduct(shared, folder, reports=start + reports, end=start + end - 7)


def node() -> str:
    """This machine's name, as Slurm calls it if there is Slurm."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _give_up(waiting: Waiting) -> None:
    if waiting.what is not None:
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "?"))
        sys.stderr.write(f"clpds preflight: {node()} rank {rank}: still waits for {waiting.what} after {END:.0f} s\n")
        sys.stderr.flush()
    os._exit(1)
