"""Work that one process can do alone and several ranks of an MPI launcher share, with the same bytes in the end.

Rank 0 decides, speaks and renames; the others lend a hand. All of them call the same functions in the
same order. What can fail runs under ``agree`` or ``on_first``, so that all ranks stop together.
"""

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clpds.errors import UserError, said
from clpds.folders.claim import Claim
from clpds.output import claimed_step, new_folder
from launcher.rendezvous import mpi_world

T = TypeVar("T")
LATE = 90.0  # seconds: a client of a network file system may believe for a minute that a file is not there
POLL = 0.01  # seconds between two looks at whether the others have come


class _AgreedError(UserError):
    """One that all ranks raise."""


@dataclass(frozen=True)
class World:
    """The ranks that share the work; one process alone unless told."""

    rank: int = 0
    size: int = 1
    communicator: Any = None
    """mpi4py's, or None for one process."""

    def gather(self, value: T) -> list[T]:
        """The small, picklable ``value`` of every rank, in their order, on all ranks."""
        if self.communicator is None:
            return [value]
        arrived = self.communicator.Ibarrier()
        while not arrived.Test():  # MPI's own waiting would keep a core busy that another rank can use
            time.sleep(POLL)
        values: list[T] = self.communicator.allgather(value)
        return values

    def agree(self, work: Callable[[], T]) -> T:
        """Do ``work`` on every rank; where it raises UserError or OSError on some, all raise one UserError."""
        if self.communicator is None:
            return work()
        result, problem = None, None
        try:
            result = work()
        except (UserError, OSError) as error:
            text = said(error) if isinstance(error, OSError) else str(error)
            problem = text, socket.gethostname()
        problems = self.gather(problem)
        for rank, failed in enumerate(problems):
            if failed is not None:
                text, host = failed
                raise _AgreedError(f"{text} (rank {rank} on {host})" if rank else text)
        return result  # type: ignore[return-value]

    def on_first(self, work: Callable[[], T]) -> T:
        """Do ``work`` on rank 0 once all ranks are here; every rank gets its result (small, picklable)."""
        self.gather(None)
        result = self.agree(lambda: work() if self.rank == 0 else None)
        return self.gather(result)[0]  # type: ignore[return-value]

    def cores(self) -> int:
        """Cores for this rank, 1 at least: those that several ranks of a node may use are divided among them."""
        own, host = os.sched_getaffinity(0), socket.gethostname()
        places = self.gather((host, own))
        users = (sum(other == host and core in theirs for other, theirs in places) for core in own)
        return max(1, int(sum(1 / count for count in users) + 0.001))


ALONE = World()


@contextmanager
def shared() -> Iterator[World]:
    """The ranks that an MPI launcher started, or one process; only rank 0 is heard meanwhile.

    Of a UserError that all have agreed on rank 0 alone tells. Any other exception ends the whole job at once:
    the others would wait for this rank, here or in MPI's own end.
    """
    communicator = mpi_world()
    if communicator is None:
        yield ALONE
        return
    world = World(communicator.rank, communicator.size, communicator)
    try:
        with ExitStack() as silence:
            if world.rank:
                nowhere = silence.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                silence.enter_context(redirect_stdout(nowhere))
                silence.enter_context(redirect_stderr(nowhere))
            yield world
        world.gather(None)  # what rank 0 wrote last is there for whatever any rank does next
    except _AgreedError:
        if world.rank == 0:
            raise
        sys.exit(2)  # and waits in MPI's end until rank 0 has told
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        sys.stderr.flush()
        communicator.Abort(130 if isinstance(error, KeyboardInterrupt) else 1)


@contextmanager
def claimed_by_first(world: World, step: Any, *, task_of: str | None = None) -> Iterator[Claim | None]:
    """``claimed_step`` for all ranks: rank 0 has the claim, the others None."""
    with ExitStack() as stack:
        claims: list[Claim] = []
        world.on_first(lambda: claims.append(stack.enter_context(claimed_step(step, task_of=task_of))))
        yield claims[0] if claims else None


@contextmanager
def new_shared_folder(world: World, out: Path, *, overwrite: bool = False, need: int = 0) -> Iterator[Path]:
    """``new_folder`` for all ranks: rank 0 makes, renames or removes it, and all may write into it."""
    with ExitStack() as stack:
        yield world.on_first(lambda: stack.enter_context(new_folder(out, overwrite=overwrite, need=need)))
        world.on_first(stack.close)


def see(paths: Iterable[Path]) -> None:
    """Wait until files that another rank wrote show here; UserError where they do not, after ``LATE`` seconds."""
    deadline = time.monotonic() + LATE
    for path in paths:
        while not path.exists():
            if time.monotonic() > deadline:
                raise UserError(f"{path} of another rank does not show here: is it on a disk that all nodes share?")
            time.sleep(0.1)


def share_out(sizes: Mapping[str, int], ranks: int, first: Collection[str] = ()) -> dict[str, int]:
    """A rank for each key, in runs of neighbours with about the same size in all; those of ``first`` get rank 0."""
    owners = dict.fromkeys(first, 0)
    before, fair = sum(sizes[key] for key in first), sum(sizes.values()) / ranks
    for key, size in sizes.items():
        if key not in owners:
            owners[key] = min(int(before / fair), ranks - 1) if fair else 0
            before += size
    return owners
