"""The ranks as a group: start, agree, sum."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from clpds.errors import UserError, said
from launcher.rendezvous import no_meeting

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # DeepSpeed's own default became 10, too short for a slow shared disk


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the group that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe.

    Yields this rank's device; UserError where nobody meets there. The group is always destroyed: under mpirun a process
    that ends without doing so counts as failed.
    """
    # On a CPU DeepSpeed would compile a C++ extension for shared-memory collectives: over a minute
    # on two cores, and a failure where there is no compiler. gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
        _meet("nccl", device)
    else:
        device = torch.device("cpu")
        _meet("gloo", None)
    deepspeed.init_distributed(auto_mpi_discovery=False)  # takes over torch's group
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _meet(backend: str, device: torch.device | None) -> None:
    """Raises UserError that names MASTER_ADDR and MASTER_PORT where the ranks do not meet there."""
    try:
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=device)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise no_meeting(error) from error


def first_rank() -> bool:
    """Whether this is rank 0, which prints and writes what all share."""
    return dist.get_rank() == 0


def agree(work: Callable[[], T]) -> T:
    """Do ``work`` on every rank; where it raises UserError or OSError on some, all raise one UserError together.

    So a file that only one node lacks is one message, not a hang of the others.
    """
    result, problem = None, None
    try:
        result = work()
    except UserError as error:
        problem = error
    except OSError as error:
        problem = UserError(said(error))
    problems: list[UserError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    failed = {rank: error for rank, error in enumerate(problems) if error is not None}
    if failed:
        where = "" if len(failed) == len(problems) else f" (rank {', '.join(map(str, failed))} only)"
        first = next(iter(failed.values()))
        raise type(first)(f"{first}{where}")
    return result  # type: ignore[return-value]


def on_first_rank(work: Callable[[], T]) -> T:
    """Do ``work`` on rank 0 once all ranks are here; every rank gets its result (small, picklable)."""
    dist.barrier()
    results: list[T | None] = [None]

    def do() -> None:
        if first_rank():
            results[0] = work()

    agree(do)
    dist.broadcast_object_list(results, src=0)
    return results[0]  # type: ignore[return-value]


def total(values: list[float], device: torch.device) -> list[float]:
    """Sums over all ranks, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    sums: list[float] = tensor.tolist()
    return sums


def largest(tensor: Tensor) -> Tensor:
    """Element-wise maximum over all ranks, int32."""
    tensor = tensor.to(torch.int32)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor
