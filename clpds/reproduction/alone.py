"""One recipe, whole, in this process and as its only rank: what `clpds reproduce` starts many of, side by side.

Libraries are imported once a recipe, not once a step: on a CPU that is most of the time of a small stage.
"""

import os
import sys
from pathlib import Path

from clpds.cli import room
from clpds.done import is_done
from clpds.errors import UserError, complain
from clpds.recipe import Recipe, Train, load_recipe, verb_of
from clpds.training.stopping import stop_flag
from launcher.rendezvous import free_port


def walk(recipe: Recipe) -> None:
    """Do the steps that are not done; a training stage that is asked to stop saves and ends the process."""
    for name, step in recipe.steps.items():
        sys.stderr.write(f"{name} ({verb_of(step)})\n")
        if isinstance(step, Train):
            _train(step)
        elif not is_done(step, name):
            room(verb_of(step))(step)


def _train(stage: Train) -> None:
    import torch

    from clpds.training.group import process_group
    from clpds.training.loop import train

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(one, MASTER_PORT=str(free_port()))
    with stop_flag() as flag, process_group() as device:
        position = train(stage, device, flag)
    if position.step < stage.steps:
        sys.exit(130)


def main() -> None:
    """The recipe is the one argument."""
    try:
        walk(load_recipe(Path(sys.argv[1])))
    except UserError as error:
        complain("reproduce", error)
        sys.exit(2)


if __name__ == "__main__":
    main()
