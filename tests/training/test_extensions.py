"""What offload needs to be compiled: no compiler, and locks that killed processes left, are said or removed."""

import json
import os
from pathlib import Path

from clpds.recipe import Train
from clpds.training.extensions import FOLDER, VARIABLE, _kind
from tests.ranks import run_ranks
from tests.training.stages import refused, stage, write_inputs


def refused_with(variables: dict[str, str], task: Train) -> str:
    """A rank's message in an environment with these variables."""
    os.environ |= variables
    return refused(task)


def test_a_missing_compiler_and_a_lock_of_the_dead_are_named(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    inputs["deepspeed"].write_text(
        json.dumps({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}})
    )
    task = stage(inputs, tmp_path / "run", steps=1)
    lock = task.out / FOLDER / _kind() / "cpu_adam" / "lock"  # with it torch would wait for ever
    lock.parent.mkdir(parents=True)
    lock.touch()
    (task.out / "state.json").write_text('{"state": "training", "step": 0, "reason": "", "job": null}')
    (message,) = set(run_ranks(2, refused_with, {"CXX": "no-such-c++"}, task))
    assert "compiles CPUAdam: the compiler no-such-c++ is not found" in message
    assert not lock.exists()

    theirs = tmp_path / "theirs" / "cpu_adam" / "lock"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    os.utime(theirs, (0, 0))
    (message,) = set(run_ranks(2, refused_with, {VARIABLE: str(tmp_path / "theirs")}, task))
    assert message.startswith(f"{theirs} has been there for more than 10 minutes")
    assert "remove it" in message
    assert theirs.exists()
