"""Run a function on real ranks: processes with a gloo group, forked from a server that has the imports."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from launcher.rendezvous import free_port

_context = multiprocessing.get_context("forkserver")
# What a rank of training imports, once for all of them. DeepSpeed imports the last when it builds an engine.
_context.set_forkserver_preload(
    ["tests.conftest", "tests.training.stages", "deepspeed.runtime.zero.muon.muon_optimizer"]
)


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 240) -> list[Any]:
    """Call ``function(*arguments)`` on every rank and return the results in the order of ranks.

    ``function`` lives at the top level of a module and finds RANK, WORLD_SIZE, LOCAL_RANK,
    MASTER_ADDR and MASTER_PORT set, as a launcher sets them; no process group is up yet.
    Raises RuntimeError with the rank's traceback when one fails.
    """
    port, pipes, processes = free_port(), [], []
    for rank in range(world_size):
        receiver, sender = _context.Pipe(duplex=False)
        process = _context.Process(target=_rank, args=(rank, world_size, port, sender, function, arguments))
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    try:
        results = [_result(rank, pipe, timeout) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    problems = [problem for problem, _ in results if problem]
    if problems:  # the first to fail makes the others fail: show all
        raise RuntimeError("\n".join(problems))
    return [value for _, value in results]


def _result(rank: int, pipe: Connection, timeout: float) -> tuple[str | None, Any]:
    """What went wrong on a rank, or its result."""
    if not pipe.poll(timeout):
        return f"rank {rank} said nothing for {timeout} s", None
    try:
        succeeded, value = pickle.loads(pipe.recv_bytes())
    except EOFError:
        return f"rank {rank} died", None
    return (None, value) if succeeded else (f"rank {rank}:\n{value}", None)


def _rank(
    rank: int,
    world_size: int,
    port: int,
    sender: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import torch.distributed as dist

    try:
        sender.send_bytes(pickle.dumps((True, function(*arguments))))  # by value, tensors too
    except BaseException:
        sender.send_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
