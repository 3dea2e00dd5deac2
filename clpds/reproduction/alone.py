"""One recipe, whole, in this process and as its only rank: what `clpds reproduce` starts many of, side by side.

Libraries are imported once a recipe, not once a step: on a CPU that is most of the time of a small stage.
"""

import os
import sys
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from clpds.cli import room
from clpds.done import is_done
from clpds.errors import UserError, complain
from clpds.recipe import Recipe, Train, load_recipe, verb_of
from clpds.training.stopping import stop_flag
from launcher.local import end_with_launcher
from launcher.rendezvous import free_port

if TYPE_CHECKING:
    import torch


def walk(recipe: Recipe) -> None:
    """Do the steps that are not done; a training stage that is asked to stop saves and ends the process."""
    with ExitStack() as end:

        @cache
        def group() -> "torch.device":
            """Of all stages: DeepSpeed keeps hold of the first group that it meets, and fails with a second one."""
            return end.enter_context(_group())

        for name, step in recipe.steps.items():
            if is_done(step, name):
                continue
            sys.stderr.write(f"{name} ({verb_of(step)})\n")
            if isinstance(step, Train):
                _train(step, group())
            else:
                room(verb_of(step))(step)


def _group() -> "AbstractContextManager[torch.device]":
    import torch

    from clpds.training.group import process_group

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(one, MASTER_PORT=str(free_port()))
    return process_group()


def _train(stage: Train, device: "torch.device") -> None:
    from clpds.training.loop import train

    with stop_flag() as flag:
        position = train(stage, device, flag)
    if position.step < stage.steps:
        sys.exit(130)


def main() -> None:
    """The recipe is the one argument."""
    end_with_launcher()
    try:
        walk(load_recipe(Path(sys.argv[1])))
    except UserError as error:
        complain("reproduce", error)
        sys.exit(2)


if __name__ == "__main__":
    main()
