"""Checkpoints written beside the training are those written while it waits, and are whole or not there."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clpds.conversion.convert import convert
from clpds.manifest import hash_files
from clpds.recipe import Convert, Saving, Train
from clpds.run_folder import read_metrics, saved_step, whole_checkpoints
from clpds.training import saving
from tests.ranks import run_ranks
from tests.training.stages import curve, run_stage, stage, write_inputs

ZERO = {3: "zero3.json", 2: "zero2.json", 1: "zero1.json"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("asynchronous")
    made = write_inputs(folder, shape="gpt2")  # GPT-2 has dropout
    for zero in (1, 2):
        (folder / ZERO[zero]).write_text(json.dumps({"zero_optimization": {"stage": zero}}))
    return made


def before_writing(work: Callable[[Path], None]) -> None:
    """Let the thread do this first, with the folder it is to write; in this process only."""
    write = saving.write

    def late(files: dict[Path, Any]) -> None:
        work(next(iter(files)).parent)
        write(files)

    saving.write = late


def run_with_a_slow_disk(task: Train) -> list[int]:
    """The stage, but a file is written only when the loop is a step further; the steps at which that was awaited."""
    awaited = []

    def wait(folder: Path) -> None:
        step = int(folder.stem.removeprefix("step-"))
        while step < task.steps and read_metrics(task.out)[-1]["step"] <= step:
            time.sleep(0.01)
        awaited.append(step)

    before_writing(wait)
    run_stage(task)
    return awaited


def run_killed_while_writing(task: Train) -> None:
    """The stage, but rank 1 is killed when it has begun to write its second checkpoint."""

    def kill(folder: Path) -> None:
        if os.environ["RANK"] == "1" and folder.stem == "step-00000004":
            os.kill(os.getpid(), signal.SIGKILL)

    before_writing(kill)
    run_stage(task)


def weights(run: Path, checkpoint: Path) -> dict[str, tuple[int, str]]:
    """Sizes and hashes of the model's files of weights."""
    out = run.with_name(f"{run.name}-{checkpoint.name}")
    convert(Convert(model=checkpoint, out=out))
    return hash_files(out.glob("*.safetensors"))


@pytest.mark.parametrize("zero", ZERO)
def test_the_loop_goes_on_and_the_checkpoints_are_the_same(zero: int, inputs: dict[str, Path], tmp_path: Path) -> None:
    task = stage(
        inputs,
        tmp_path / "waiting",
        deepspeed=inputs["model"].parent / ZERO[zero],
        saving=Saving(every=2, keep_last=4),
    )
    beside = replace(task, out=tmp_path / "beside", saving=replace(task.saving, asynchronous=True))
    run_ranks(2, run_stage, task)
    assert run_ranks(2, run_with_a_slow_disk, beside) == [[2, 4, 6, 8]] * 2  # else this would hang
    assert curve(read_metrics(beside.out)) == curve(read_metrics(task.out))
    for waited, other in zip(whole_checkpoints(task.out), whole_checkpoints(beside.out), strict=True):
        assert waited.name == other.name
        assert weights(beside.out, other) == weights(task.out, waited)


def test_a_rank_killed_while_it_writes_leaves_the_checkpoint_before(inputs: dict[str, Path], tmp_path: Path) -> None:
    task = stage(inputs, tmp_path / "whole", saving=Saving(every=2, asynchronous=True))
    run_ranks(2, run_stage, task)
    killed = replace(task, out=tmp_path / "killed")
    with pytest.raises(RuntimeError, match="rank 1 died"):
        run_ranks(2, run_killed_while_writing, killed)
    assert saved_step(killed.out) == 2
    run_ranks(2, run_stage, killed)
    assert curve(read_metrics(killed.out)) == curve(read_metrics(task.out))
    ends = [whole_checkpoints(run.out)[-1] for run in (killed, task)]
    assert weights(killed.out, ends[0]) == weights(task.out, ends[1])
