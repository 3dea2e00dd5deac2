"""An all-reduce whose result is known, and how fast it is."""

import time
from collections.abc import Collection
from datetime import timedelta
from statistics import median
from typing import TypedDict

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from clpds.output import human_bytes
from clpds.preflight.health import own_device

SIZE = {"cpu": 4 * 2**20, "cuda": 64 * 2**20}  # bytes: enough to be about bandwidth rather than latency
TIMES = 5
PATTERN = 7
NEVER = timedelta(minutes=10)  # rank 0 and the watchdog give up much earlier, and say more


class Sum(TypedDict):
    """One rank's part: what was wrong or None, the median seconds of an all-reduce, its bytes."""

    problem: str | None
    seconds: float
    bytes: int


def all_reduce(shared: Store, rank: int, world_size: int) -> Sum:
    """Join a process group over the store ``shared``; sum (rank + 1) * (1, 2, ..., 7, 1, ...) in int32, exactly."""
    device = own_device()
    size = SIZE[device.type]
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", shared),
            rank=rank,
            world_size=world_size,
            timeout=NEVER,
            device_id=device if device.type == "cuda" else None,
        )
        pattern = torch.arange(size // 4, dtype=torch.int32, device=device) % PATTERN + 1
        summed = pattern * (rank + 1)
        dist.all_reduce(summed)
        wrong = int((summed != pattern * (world_size * (world_size + 1) // 2)).sum())
        seconds = median(_timed(summed, device) for _ in range(TIMES))
        dist.destroy_process_group()
    except RuntimeError as error:
        return Sum(problem=f"cannot all-reduce: {str(error).partition(chr(10))[0]}", seconds=0, bytes=size)
    problem = f"got a wrong sum in {wrong} of {size // 4} numbers of an all-reduce" if wrong else None
    return Sum(problem=problem, seconds=seconds, bytes=size)


def describe(sums: Collection[Sum]) -> str:
    """One line; the bandwidth is that over each link were the ranks a ring, which nccl-tests calls busbw."""
    ranks, seconds = len(sums), max(part["seconds"] for part in sums)
    size = next(iter(sums))["bytes"]
    if ranks == 1:
        return "all-reduce: one rank, nothing to measure"
    speed = 2 * (ranks - 1) / ranks * size / seconds
    return (
        f"all-reduce: the sum over {ranks} ranks is right; {human_bytes(speed)}/s bus bandwidth at {human_bytes(size)}"
    )


def _timed(tensor: torch.Tensor, device: torch.device) -> float:
    tensor.zero_()
    dist.barrier()
    start = time.perf_counter()
    dist.all_reduce(tensor)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
