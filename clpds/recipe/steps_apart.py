"""Whether the steps of a recipe leave one another's files alone, by the real paths of what they read and write."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from clpds.errors import UserError
from clpds.folders.inputs import inputs_of, real_path
from clpds.recipe.steps import Step


class _Paths(NamedTuple):
    """Of one step, without links and ``..``."""

    out: Path | None
    inputs: list[Path]


def require_apart(recipe: Path, steps: Mapping[str, Step]) -> None:
    """UserError that names the file and both steps where one would write over, into or around what another has.

    No two steps share an ``out``, none lies in another's, and none lies in, is or holds an input, unless that input is
    the output of another step, or in it. A step reads what earlier steps write: no two wait for each other.
    """
    found = {name: _paths(step) for name, step in steps.items()}
    for (name, one), (other, two) in combinations(found.items(), 2):
        if one.out is None or two.out is None:
            continue
        if one.out == two.out:
            raise UserError(f"{recipe}: steps '{name}' and '{other}' both write {one.out}; give each an out of its own")
        for inner, outer, inside, around in ((name, other, one.out, two.out), (other, name, two.out, one.out)):
            if around in inside.parents:
                raise UserError(f"{recipe}: step '{inner}' writes {inside} inside the out of step '{outer}'; move it")
    for name, step in found.items():
        for path in step.inputs:
            _require_unwritten(recipe, name, path, found)
    _require_order(recipe, found)


def _require_unwritten(recipe: Path, reader: str, path: Path, steps: Mapping[str, _Paths]) -> None:
    """UserError where a step would change the input ``path`` of the step ``reader`` without being what makes it."""
    made = any(_within(path, step.out) for name, step in steps.items() if name != reader)
    for name, step in steps.items():
        if step.out is None or not (_within(step.out, path) or _within(path, step.out)):
            continue
        if name == reader:
            raise UserError(f"{recipe}: step '{name}' writes {step.out} and reads {path}; give it another out")
        if not made:
            raise UserError(
                f"{recipe}: step '{name}' writes {step.out} inside {path}, which step '{reader}' reads; move it"
            )


def _require_order(recipe: Path, steps: Mapping[str, _Paths]) -> None:
    """UserError where a step reads what a later one writes: `run` would come to it too early, and `submit` not wait."""
    names = list(steps)
    needs = {
        name: {
            other for other in names if other != name and any(_within(path, steps[other].out) for path in step.inputs)
        }
        for name, step in steps.items()
    }
    for place, name in enumerate(names):
        for later in names[place + 1 :]:
            if later not in needs[name]:
                continue
            if name in _all_needs(needs, later):
                raise UserError(
                    f"{recipe}: steps '{name}' and '{later}' wait for each other's output; neither can be first"
                )
            raise UserError(f"{recipe}: step '{name}' reads what step '{later}' writes; put '{later}' before it")


def _all_needs(needs: Mapping[str, set[str]], name: str) -> set[str]:
    """The steps that ``name`` waits for, and those that these wait for."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = needs[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def _within(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.is_relative_to(folder)


def _paths(step: Step) -> _Paths:
    out: Path | None = getattr(step, "out", None)
    return _Paths(out and real_path(out), [real_path(path) for path in inputs_of(step)])
