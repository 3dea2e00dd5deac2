"""Ranks of a group on this machine: ``python -m benchmarks.launch RANKS MODULE WORDS...``.

Each calls ``benchmarks.MODULE.main(*WORDS)``. They are forked after the imports: where the processor is slow, importing
is most of what a short benchmark takes (two ranks of eight steps: 15 to 18 s under torchrun).
"""

import importlib
import os
import sys
from collections.abc import Callable

from torch.multiprocessing import start_processes

from clpds.cli import quick_imports
from launcher.rendezvous import free_port


def main(ranks: int, module: str, *words: str) -> None:
    """Raises where a rank does, and ends the others."""
    with quick_imports():
        work = importlib.import_module(f"benchmarks.{module}").main
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    start_processes(_rank, (work, words), ranks, start_method="fork")


def _rank(rank: int, work: Callable[..., None], words: tuple[str, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    work(*words)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
