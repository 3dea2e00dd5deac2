"""Start the ranks of a training stage on this machine, and end them together."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from launcher.rendezvous import free_port

GRACE = 30.0  # seconds for the other ranks to end after one has failed
LAUNCHER = "CLPDS_LAUNCHER"  # the process that starts the ranks, in their environment
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def run_ranks(arguments: Sequence[str], ranks: int) -> int:
    """Run ``clpds`` with these arguments on ``ranks`` processes; returns the first failure's status, or 0.

    SIGTERM and Ctrl-C go to every rank, which then saves and ends by itself.
    """
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared[LAUNCHER] = str(os.getpid())
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    shared["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "clpds", *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]

    def forward(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGUSR1)}
    # A terminal sends Ctrl-C to the whole process group, so the ranks have it already.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        return _wait(processes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_launcher() -> None:
    """Let the kernel end this process with the one that `run_ranks` ran in, even where that is killed.

    Nobody would end ranks without a launcher when one of them fails, and they would train beside those of a new start.
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(launcher):  # it was killed before the kernel knew
            os._exit(1)


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    deadline = None
    while any(process.poll() is None for process in processes):
        failed = [process.returncode for process in processes if process.returncode]
        if failed and deadline is None:
            deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    return next((process.returncode for process in processes if process.returncode), 0)
