"""Save a checkpoint in turns, on a rank of a group: ``python -m benchmarks.launch N savers RECIPE ROUNDS OUT.json``.

One engine, so that all save the same: ours, ours beside the loop, DeepSpeed's ``save_checkpoint``, and the same brought
to the disk.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from clpds.allocator import keep_freed_memory
from clpds.checkpoint import Checkpoint
from clpds.output import sync
from clpds.recipe import Saving, Train, load_stage
from clpds.run_folder import TRAINER
from clpds.training.engine import build_engine, build_model, deepspeed_config
from clpds.training.group import process_group
from clpds.training.loop import rank_indices
from clpds.training.saving import Position, Saver
from clpds.training.setup import Inputs, open_inputs, open_model, prepare_run


def main(recipe: str, rounds: str, out: str) -> None:
    """Rank 0 writes the seconds of every round, from the moment that all ranks are ready until all are done.

    Of the one beside the loop those are counted for which the loop waits.
    """
    stage = load_stage(Path(recipe), (), None)[1]
    folder, last = stage.out.with_name("theirs"), int(rounds) + 1
    with process_group() as device:
        inputs, _, engine = fresh_engine(stage, device)
        if device.type == "cpu":
            keep_freed_memory()  # as the trainer does
        batch = inputs.mixture.batch(rank_indices(stage, 0)[0])
        engine.backward(engine(input_ids=batch.input_ids, labels=batch.labels, use_cache=False).loss)
        engine.step()

        waiting = Saver(engine, stage, {})
        beside = Saver(engine, replace(stage, out=stage.out / "beside", saving=Saving(asynchronous=True)), {})

        def ours(number: int) -> None:
            waiting.save(Position(step=number))

        def asynchronous(number: int) -> float:
            begin = time.perf_counter()
            beside.save(Position(step=number))
            begun = time.perf_counter()
            while not beside.written():
                time.sleep(0.01)
            dist.barrier()
            written = time.perf_counter()
            beside.finish()
            return time.perf_counter() - written + begun - begin

        def theirs(number: int) -> None:
            engine.save_checkpoint(str(folder), tag=f"plain-{number}")

        def synced(number: int) -> None:
            engine.save_checkpoint(str(folder), tag=f"synced-{number}")
            for file in (folder / f"synced-{number}").glob(f"*zero_pp_rank_{dist.get_rank()}_*"):
                sync(file)
            dist.barrier()

        ways: dict[str, Callable[[int], float | None]] = {
            "ours": ours,
            "asynchronous": asynchronous,
            "theirs": theirs,
            "synced": synced,
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(1, last + 1):  # the first is not counted: directories, allocations
            for way in list(ways) if number % 2 else list(ways)[::-1]:
                _wait_for_disk()
                begin = time.perf_counter()
                waited = ways[way](number)
                dist.barrier()
                if number > 1:
                    seconds[way].append(time.perf_counter() - begin if waited is None else waited)
            if number < last and dist.get_rank() == 0:
                shutil.rmtree(folder)
            dist.barrier()
        if dist.get_rank() == 0:
            for run in (stage.out, stage.out / "beside"):
                _require_same(run / "checkpoints" / f"step-{last:08d}", folder / f"plain-{last}")
            size = sum(file.stat().st_size for file in (folder / f"plain-{last}").iterdir())
            Path(out).write_text(json.dumps({"seconds": seconds, "bytes": size}))
        dist.barrier()


def fresh_engine(stage: Train, device: torch.device) -> tuple[Inputs, Checkpoint, Any]:
    """The stage's inputs and model, and an engine that has done nothing yet; the run's folder is there then."""
    inputs, config = open_inputs(stage), deepspeed_config(stage, dist.get_world_size())
    checkpoint = open_model(stage, inputs)
    prepare_run(stage, checkpoint)
    return inputs, checkpoint, build_engine(build_model(checkpoint, config, device), stage, config, device)


def _wait_for_disk() -> None:
    """Nobody pays for what the one before left to be written."""
    dist.barrier()
    if dist.get_rank() == 0:
        os.sync()
    dist.barrier()


def _require_same(ours: Path, theirs: Path) -> None:
    """RuntimeError unless the files are the same to the last byte, but for those that only ours has."""
    wanted = {file.name for file in theirs.iterdir()}
    extra = {file.name for file in ours.iterdir()} - wanted
    if extra != {TRAINER, "manifest.json"}:
        raise RuntimeError(f"{ours} and {theirs} hold other files: {extra}")
    for name in sorted(wanted):
        one, other = (torch.load(folder / name, mmap=True, weights_only=False) for folder in (ours, theirs))
        _compare(name, one, other)


def _compare(where: str, one: object, other: object) -> None:
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and torch.equal(one, other)
    elif isinstance(one, dict):
        same = isinstance(other, dict) and one.keys() == other.keys()
        for key in one if same else ():
            _compare(f"{where}/{key}", one[key], other[key])  # type: ignore[index]
    elif isinstance(one, list | tuple):
        same = isinstance(other, list | tuple) and len(one) == len(other)
        for number, (first, second) in enumerate(zip(one, other, strict=False)) if same else ():
            _compare(f"{where}/{number}", first, second)
    else:
        same = True
    if not same:
        raise RuntimeError(f"{where} is not the same in both checkpoints")
