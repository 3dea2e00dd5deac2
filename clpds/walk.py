"""``clpds run``: the steps of a recipe, one after the other, on this machine."""

import sys

from rich.console import Console
from rich.markup import escape

from clpds.cli import Run, room
from clpds.done import is_done
from clpds.errors import UserError
from clpds.recipe import Recipe, Train, load_recipe, of_step, verb_of
from launcher.local import run_ranks


def run_recipe(options: Run) -> None:
    """Walk the recipe; a step whose output exists, made with the same parameters, is skipped."""
    recipe = load_recipe(options.recipe, options.overrides)
    console = Console(stderr=True, highlight=False)
    if options.step is not None and options.step not in recipe.steps:
        raise UserError(f"{recipe.path} has no step '{options.step}' (its steps: {', '.join(recipe.steps)})")
    for number, (name, step) in enumerate(recipe.steps.items(), 1):
        if options.step not in (None, name):
            continue
        label = f"[bold]\\[{number}/{len(recipe.steps)}] {escape(name)}[/bold] ({verb_of(step)})"
        if isinstance(step, Train):
            console.print(label)
            _train(recipe, name, step, options)
        elif is_done(step, name):
            console.print(f"{label}: done before")
        else:
            console.print(label)
            room(verb_of(step))(step)


def _train(recipe: Recipe, name: str, step: Train, options: Run) -> None:
    overrides = of_step(options.overrides, name)
    status = run_ranks(["train", str(recipe.path), *overrides, "--step", name], options.ranks)
    if status:
        sys.exit(status if status > 0 else 1)
    if not is_done(step, name):
        sys.exit(130)  # asked to stop: the steps after it would use half a training
