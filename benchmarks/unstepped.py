"""Save what a rank of a group holds before its first step: ``python -m benchmarks.launch N unstepped RECIPE``.

The checkpoint is that of a training in its files, names and sizes; Adam's moments are zero. One step of eight ranks
that share two cores takes a minute.
"""

from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.savers import fresh_engine
from clpds.recipe import load_stage
from clpds.training.engine import deepspeed_config
from clpds.training.group import process_group
from clpds.training.saving import Position, Saver
from clpds.training.setup import identity


def main(recipe: str) -> None:
    """As step 1 of the recipe's stage."""
    stage = load_stage(Path(recipe), (), None)[1]
    with process_group() as device:
        inputs, checkpoint, engine = fresh_engine(stage, device)
        for flat in engine.optimizer.fp32_partitioned_groups_flat:  # Adam makes them in the first step
            moments = {name: torch.zeros_like(flat) for name in ("exp_avg", "exp_avg_sq")}
            engine.optimizer.optimizer.state[flat] = {"step": torch.ones(()), **moments}
        same = identity(stage, inputs, checkpoint, deepspeed_config(stage, dist.get_world_size()))
        with Saver(engine, stage, same) as saver:
            saver.save(Position(step=1))
