"""``clpds run``: the steps of a recipe, one after the other, on this machine."""

import sys
from pathlib import Path

from rich.console import Console

from clpds import provenance
from clpds.cli import Run, room
from clpds.errors import UserError
from clpds.recipe import Inspect, Recipe, Step, Train, load_recipe, verb_of
from launcher.local import run_ranks


def run_recipe(options: Run) -> None:
    """Walk the recipe; a step whose output exists, made with the same parameters, is skipped."""
    recipe = load_recipe(options.recipe, options.overrides)
    console = Console(stderr=True, highlight=False)
    for number, (name, step) in enumerate(recipe.steps.items(), 1):
        label = f"[bold]\\[{number}/{len(recipe.steps)}] {name}[/bold] ({verb_of(step)})"
        if isinstance(step, Train):
            console.print(label)
            _train(recipe, name, step, options)
        elif is_done(step, name):
            console.print(f"{label}: done before")
        else:
            console.print(label)
            room(verb_of(step))(step)


def is_done(step: Step, name: str) -> bool:
    """Whether the step's output is there; UserError where it was made with other parameters."""
    out: Path | None = getattr(step, "out", None)
    if out is None or isinstance(step, Inspect) or not out.exists() or getattr(step, "overwrite", False):
        return False
    before = provenance.read(out) if out.is_dir() else None
    if before is None:
        return out.is_file()
    now = provenance.parameters(step)
    changed = [key for key in now if before["parameters"].get(key) != now[key]]
    if changed:
        key = changed[0]
        was = before["parameters"].get(key)
        raise UserError(f"{out} was made with {key} {was}, now {now[key]}; remove it or set {name}.overwrite=true")
    return True


def _train(recipe: Recipe, name: str, step: Train, options: Run) -> None:
    prefix = f"{name}."
    overrides = [text.removeprefix(prefix) for text in options.overrides if text.startswith(prefix)]
    status = run_ranks(["train", str(recipe.path), *overrides, "--step", name], options.ranks)
    if status:
        sys.exit(status if status > 0 else 1)
    from clpds.training.saving import read_trainer, whole_checkpoints

    whole = whole_checkpoints(step.out)
    if not whole or not read_trainer(whole[-1])["finished"]:
        sys.exit(130)  # asked to stop: the steps after it would use half a training
