"""Which methods a recipe's inputs allow."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_args

from clpds.errors import UserError
from clpds.recipe import NEEDS, USED_BY, Init, Recipe, VocabularyMethod

METHODS: tuple[VocabularyMethod, ...] = get_args(VocabularyMethod)
# Options that are tried besides those of the recipe, where the published ones are not the best.
VARIANTS: dict[VocabularyMethod, dict[str, dict[str, Any]]] = {
    "clp": {"clp": {"weighting": "published"}, "clp auto": {"weighting": "auto"}},
    "wechsel": {"wechsel": {"copy_overlap": False}, "wechsel copied": {"copy_overlap": True}},
}


def candidates(recipe: Recipe, methods: Sequence[VocabularyMethod] = ()) -> dict[str, Init]:
    """Label to step for every method, or for those named, whose inputs some init step of ``recipe`` has.

    The first init step names source, target and whatever concerns all methods; a method that has a step of
    its own takes its options from there. Raises UserError where there is no init step, two have
    different sources, and for a method that lacks an input.
    """
    steps = [step for step in recipe.steps.values() if isinstance(step, Init)]
    if not steps:
        raise UserError(f"{recipe.path} has no init step, which would name the source and the target tokenizer")
    for step in steps[1:]:
        if step.source != steps[0].source:
            raise UserError(f"{recipe.path} has init steps for {steps[0].source} and {step.source}; keep one source")
    inputs = _inputs(steps)
    for method in methods:
        if missing := _missing(method, inputs):
            raise UserError(f"method {method} needs {missing[0]}, which no init step of {recipe.path} has")
    found: dict[str, Init] = {}
    for method in methods or [method for method in METHODS if not _missing(method, inputs)]:
        own = next((step for step in steps if step.method == method), steps[0])
        step = _by(method, own, inputs)
        found |= {label: replace(step, **change) for label, change in VARIANTS.get(method, {method: {}}).items()}
    return found


def _missing(method: VocabularyMethod, inputs: Mapping[str, Any]) -> list[str]:
    return [name for name in NEEDS.get(method, ()) if name not in inputs]


def _inputs(steps: Sequence[Init]) -> dict[str, Any]:
    """All that the steps read beside the source, by option: the first that is given."""
    names = {"helper", "tokenizer", *(name for needed in NEEDS.values() for name in needed)}
    return {name: value for name in sorted(names) for step in reversed(steps) if (value := getattr(step, name))}


def _by(method: VocabularyMethod, step: Init, inputs: Mapping[str, Any]) -> Init:
    """``step`` by this method: its inputs, and no option that it does not use."""
    unused = {name for name, methods in USED_BY.items() if method not in methods}
    default: dict[str, Any] = {option.name: option.default for option in fields(Init) if option.name in unused}
    used = {name: value for name, value in inputs.items() if name not in unused}
    return replace(step, method=method, **default, **used)
