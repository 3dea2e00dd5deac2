"""A rank of training that counts: ``python -m benchmarks.launch N counted_rank RECIPE OUT.json``.

Counted are the bytes read of weight files, and the collective operations with the bytes that the rank sends where the
ring algorithm is used, which is the least that any algorithm needs.
"""

import json
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

COLLECTIVES = (
    "all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor",
    "barrier",
)  # fmt: skip
counts: Counter[str] = Counter()
inside = False


def main(recipe: str, out: str) -> None:
    """Train, and write what was counted up to the first step, in the last step and in the last save."""
    for name in COLLECTIVES:  # before anything else takes hold of them
        function = _counted(name, getattr(distributed_c10d, name))
        setattr(distributed_c10d, name, function)
        setattr(dist, name, function)

    from clpds.checkpoint import safetensors
    from clpds.recipe import load_stage
    from clpds.training import loop, saving
    from clpds.training.group import process_group
    from clpds.training.stopping import stop_flag

    told: dict[str, dict[str, int]] = {}
    read = safetensors._read

    def read_counted(*arguments: Any) -> Tensor:
        values = read(*arguments)
        counts["read_bytes"] += values.nbytes
        return values

    def during(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def counted(*arguments: Any, **options: Any) -> Any:
            told.setdefault("start", dict(counts))
            before = counts.copy()
            result = work(*arguments, **options)
            told[name] = dict(counts - before)
            return result

        return counted

    safetensors._read = read_counted
    loop.Loop.step = during("step", loop.Loop.step)  # type: ignore[method-assign]
    saving.Saver.save = during("save", saving.Saver.save)  # type: ignore[method-assign]
    _, stage = load_stage(Path(recipe), (), None)
    with stop_flag() as flag, process_group() as device:
        loop.train(stage, device, flag)
        rank = dist.get_rank()
    Path(f"{out}.{rank}").write_text(json.dumps(told))


def _counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(work)
    def counted(*arguments: Any, **options: Any) -> Any:
        global inside
        if inside:  # one that is made of another counts once
            return work(*arguments, **options)
        ranks = dist.get_world_size()
        whole = max(map(_nbytes, [*arguments, *options.values()]), default=0)
        counts["calls"] += 1
        counts[name] += 1
        counts["sent_bytes"] += whole * (ranks - 1) // ranks * (2 if name == "all_reduce" else 1)
        inside = True
        try:
            return work(*arguments, **options)
        finally:
            inside = False

    return counted


def _nbytes(value: Any) -> int:
    """Of a tensor, or of all in a list."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_nbytes, value)) if isinstance(value, list | tuple) else 0
