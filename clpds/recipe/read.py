"""Reading a recipe: YAML and overrides to steps, every error one line that names the file and the key."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from yaml.error import MarkedYAMLError
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from clpds.bounds import RECIPE, SECTIONS, VALUES
from clpds.errors import UserError
from clpds.inside import read_text
from clpds.paths import check_paths
from clpds.recipe.steps import VERBS, Step, verb_of
from clpds.recipe.steps_apart import require_apart
from clpds.recipe.training import Train
from clpds.resources import find

STEP = re.compile(r"(?!-)[^/.=\s\x00-\x1f\x7f-\x9f]+")  # a word of a command line, and of section.key=value


@dataclass(frozen=True)
class Recipe:
    """Steps by name, in order."""

    path: Path
    steps: dict[str, Step]

    def only(self, verb: str, name: str | None = None) -> tuple[str, Step]:
        """The step ``name``, or the one step of this verb; UserError unless that is unambiguous."""
        found = {key: step for key, step in self.steps.items() if verb_of(step) == verb}
        if name is None and len(found) == 1:
            return next(iter(found.items()))
        if name in found:
            return name, found[name]
        names = ", ".join(found) or "none"
        if name is not None:
            asked = f"has no {verb} step '{name}'"
        else:
            asked = f"has {len(found)} {verb} steps; pass --step" if found else f"has no {verb} step"
        raise UserError(f"{self.path} {asked} (its {verb} steps: {names})")


def load_recipe(path: Path, overrides: Sequence[str] = (), *, default_step: str | None = None) -> Recipe:
    """Read a YAML recipe (a path, or the name of one of recipes/) and apply ``step.section.key=value`` overrides.

    With ``default_step`` the overrides are ``section.key=value`` of that step.
    Raises UserError that names the file and key, with the nearest known name, or two steps that are not apart.
    """
    recipe = _load(path, overrides, default_step)
    require_apart(recipe.path, recipe.steps)
    return recipe


def load_stage(path: Path, overrides: Sequence[str] = (), name: str | None = None) -> tuple[str, Train]:
    """The recipe's one training stage, or the one called ``name``; overrides are ``section.key=value`` of it.

    What other steps write is not looked at: the overrides that `run` was given for them are not known here.
    """
    name, _ = _load(path).only("train", name)
    recipe = _load(path, overrides, name)
    stage = recipe.steps[name]
    assert isinstance(stage, Train)  # only() saw to it
    require_apart(recipe.path, {name: stage})
    return name, stage


def _load(path: Path, overrides: Sequence[str] = (), default_step: str | None = None) -> Recipe:
    path = find("recipes", path)
    document = read_yaml(path)
    if not isinstance(document, dict) or not isinstance(document.get("steps"), dict) or not document["steps"]:
        raise UserError(f"{path}: expected a mapping 'steps' of step names to steps")
    for key in document:
        if key != "steps":
            raise UserError(f"{path}: unknown key '{key}'{_nearest(str(key), ['steps'])}")
    steps = document["steps"]
    for override in overrides:
        _apply(steps, override, default_step)
    return Recipe(path, {name: _step(path, name, raw) for name, raw in steps.items()})


def of_step(overrides: Sequence[str], name: str) -> list[str]:
    """Those overrides of a recipe that concern the step ``name``, without its name."""
    return [text.removeprefix(f"{name}.") for text in overrides if text.startswith(f"{name}.")]


def read_yaml(path: Path) -> Any:
    """The document of a YAML file, by the safe loader; UserError where it cannot be read."""
    try:
        return _parse(read_text(path, RECIPE))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: {error}") from error
    except UserError as error:
        raise UserError(f"{path} is {error}") from error


def checked(kind: type[Any], values: Mapping[str, Any], name: str = "") -> Any:
    """``kind(**values)`` with every type, range and path checked; ``name`` is the step's in a UserError."""
    try:
        value = _adapter(kind).validate_python(dict(values))  # type: ignore[arg-type]
    except ValidationError as error:
        raise UserError(_first(error, name, kind)) from error
    check_paths(value)
    return value


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # ten milliseconds or so each


class _Loader(yaml.CSafeLoader):
    """YAML in which a key that is given twice is an error, not the last one's victory, and 24:00:00 is no number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise MarkedYAMLError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _number_unless_time(construct: Any) -> Any:
    """YAML 1.1 reads 24:00:00 as a number to the base of 60; to us it is the text that Slurm expects."""
    return lambda loader, node: node.value if ":" in node.value else construct(loader, node)


for _kind in ("int", "float"):
    _tag = f"tag:yaml.org,2002:{_kind}"
    _Loader.add_constructor(_tag, _number_unless_time(yaml.SafeLoader.yaml_constructors[_tag]))


def _parse(text: str) -> Any:
    try:
        _require_small(text)
        return yaml.load(text, _Loader)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"not valid YAML: {place}{error.problem}") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # dates and numbers that are none
        raise UserError(f"not valid YAML: {' '.join(str(error).split())}") from error


def _require_small(text: str) -> None:
    """UserError for sections in sections without end, and for aliases that repeat others until they fill the memory.

    Where libyaml builds the former it has the stack overflow. An alias counts as all that it stands for.
    """
    known: dict[str, tuple[int, int]] = {}  # by anchor: values in it, and how many sections deep
    still: list[tuple[str | None, int, int]] = [(None, 0, 0)]  # the sections around: anchor, values and depth so far
    for event in yaml.parse(text, _Loader):
        size, depth = 1, 0
        if isinstance(event, CollectionStartEvent):
            still.append((event.anchor, 1, 1))
            if len(still) - 1 > SECTIONS:
                raise UserError(f"not valid YAML: over {SECTIONS} sections deep")
            continue
        if isinstance(event, CollectionEndEvent):
            anchor, size, depth = still.pop()
            if anchor is not None:
                known[anchor] = size, depth
        elif isinstance(event, AliasEvent):
            if event.anchor in {anchor for anchor, _, _ in still}:
                raise UserError(f"not valid YAML: section '{event.anchor}' holds itself")
            size, depth = known.get(event.anchor or "", (1, 0))
        elif not isinstance(event, ScalarEvent):
            continue
        anchor, values, deepest = still[-1]
        still[-1] = anchor, values + size, max(deepest, depth + 1)
        if still[-1][1] > VALUES:
            raise UserError(f"not valid YAML: over {VALUES:,} values, counted as often as aliases repeat them")
        if len(still) - 1 + depth > SECTIONS:
            raise UserError(f"not valid YAML: over {SECTIONS} sections deep")


def _step(path: Path, name: Any, raw: Any) -> Step:
    if not isinstance(name, str):
        raise UserError(f"{path}: the step name {name!r} is no text to YAML; put it in quotes")
    if not STEP.fullmatch(name):
        raise UserError(f"{path}: {name!r} cannot be a step's name: it is empty, begins with - or has / . = or a space")
    verb = raw.get("verb") if isinstance(raw, dict) else None
    if verb is None:
        raise UserError(f"{path}: key '{name}.verb' is missing; known: {', '.join(VERBS)}")
    if not isinstance(verb, str) or verb not in VERBS:
        raise UserError(f"{path}: {name}.verb is {verb!r}{_nearest(str(verb), VERBS)}; known: {', '.join(VERBS)}")
    keys = {key: value for key, value in raw.items() if key != "verb"}
    try:
        step: Step = checked(VERBS[verb], keys, name)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return step


def _first(error: ValidationError, name: str, kind: type[Any]) -> str:
    """The first complaint of pydantic as one line: key, what is wrong, nearest name."""
    problem = error.errors()[0]
    keys = [str(key) for key in problem["loc"]]
    where = ".".join([name, *keys] if name else keys)
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown key '{where}'{_nearest(keys[-1], _keys_beside(kind, keys))}"
    if problem["type"] == "missing":
        return f"key '{where}' is missing"
    if problem["type"] == "value_error":
        said = problem["msg"].removeprefix("Value error, ")
        return f"'{where}': {said}" if where else said  # of the options together, on the command line
    return f"'{where}': {problem['msg']} (got {reprlib.repr(problem['input'])})"


def _keys_beside(kind: type[Any], keys: Sequence[str]) -> list[str]:
    """The known keys of the section that the last of ``keys`` stands in."""
    for key in keys[:-1]:
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(key, dict)
        elif get_args(kind):  # dict[str, Corpus]: the key is a name of the user's
            kind = get_args(kind)[-1]
    return [f.name for f in fields(kind)] if is_dataclass(kind) else []


def _apply(steps: dict[str, Any], override: str, default_step: str | None) -> None:
    dotted, equals, value = override.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise UserError(f"override '{override}' is not of the form section.key=value")
    if default_step is not None:
        keys = [default_step, *keys]
    if keys[0] not in steps:
        raise UserError(f"override '{override}': no step '{keys[0]}'{_nearest(keys[0], steps)}")
    section = steps
    for key in keys[:-1]:
        inner = section.get(key, {})
        if not isinstance(inner, dict):
            raise UserError(f"override '{override}': '{key}' is no section")
        section[key] = section = dict(inner)  # a copy: an alias of it in another step stays as it is
    try:
        section[keys[-1]] = _parse(value)
    except UserError as error:
        raise UserError(f"override '{override}' is {error}") from error


def _nearest(word: str, known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(word, [str(name) for name in known], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
