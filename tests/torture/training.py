"""The training that is tortured: a tiny GPT-2, whose dropout would show a random state that was not restored."""

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.torture.killing import Kill, environment
from tests.torture.starting import Start
from tests.training.stages import write_inputs


@dataclass(frozen=True)
class Training:
    """A folder with the recipe and its inputs."""

    folder: Path
    steps: int
    fork: bool
    """Whether starts fork this process."""

    def start(
        self, run: str, order: Kill | dict[str, Any] | None = None, *, ranks: int = 2, asynchronous: bool = False
    ) -> Start:
        """``clpds run`` with the run's folder of this name."""
        overrides = [f"train.out={self.folder / run}", f"train.saving.asynchronous={str(asynchronous).lower()}"]
        words = [*overrides, "--ranks", str(ranks)]
        return Start(self.folder, words, environment(order), fork=self.fork)


def write_training(folder: Path, *, steps: int, fork: bool, dropout: bool = True) -> Training:
    """Write recipe and inputs; in a process of its own, since this one may be forked and must have no threads."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("fork" if fork else "spawn")
    process = context.Process(target=_write, args=(folder, steps, dropout))
    process.start()
    process.join()
    assert process.exitcode == 0
    return Training(folder, steps, fork)


def _write(folder: Path, steps: int, dropout: bool) -> None:
    changes = {} if dropout else {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    inputs = write_inputs(folder / "inputs", shape="gpt2", length=32, **changes)
    train = {
        "verb": "train",
        "model": str(inputs["model"]),
        "data": {"german": {"path": str(inputs["data"])}},
        "steps": steps,
        "micro_batch": 2,
        "global_batch": 8,
        "deepspeed": str(inputs["deepspeed"]),
        "optimizer": {"lr": 2e-3, "weight_decay": 0.1, "clip": 0.5},
        "schedule": {"warmup_steps": 2},
        "saving": {"every": 2},
        "validation": {"every": 3, "blocks": 4},
        "seed": 3,
        "out": "OUT",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"steps": {"train": train}}))
    assert json.loads(inputs["deepspeed"].read_text())["zero_optimization"]["stage"] == 3
