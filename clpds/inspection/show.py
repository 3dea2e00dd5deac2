"""Tell the kinds apart, print one screen, and check what was written against what is there."""

import json
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clpds import manifest, provenance, recipe
from clpds.errors import UserError
from clpds.inspection import kinds
from clpds.inspection.model import model
from clpds.inspection.rows import Rows, read_json
from clpds.inspection.tokenizer import tokenizer
from clpds.manifest import check_manifest
from clpds.run_folder import STAGE
from clpds.tokenizer_files import has_tokenizer


def inspect(step: recipe.Inspect) -> None:
    """Print what ``step.path`` is; with ``step.token`` the nearest source tokens of that word instead.

    Raises UserError where it is nothing known or cannot be opened, and, after printing, where files
    are missing or not as they were written.
    """
    if step.token is not None:
        from clpds.inspection.nearest import show_nearest

        show_nearest(step.path, step.token, step.source)
        return
    folders = _recorded(step.path)
    deep = step.verify or not (step.path / STAGE).is_file()
    problems = [
        problem if folder == step.path else f"{folder.name}/{problem}"
        for folder, record in folders.items()
        for problem in _problems(folder, record, deep=deep)
    ]
    try:
        rows = describe(step.path)
    except UserError as error:
        if not problems:
            raise
        raise UserError(f"{step.path} is damaged: {_some(problems)}") from error
    written = sum(_count(folder / record) for folder, record in folders.items())
    if written:
        sizes = "" if deep else " by their sizes"
        rows.append(("integrity", _some(problems) if problems else f"all {written} files as written{sizes}"))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)
    if problems:
        raise UserError(f"{step.path} is damaged: {_some(problems)}")


def describe(path: Path) -> Rows:
    """What ``path`` is, as (what, value); headers are read, weights are not."""
    try:
        return [*_kind(path), *_origin(path)]
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:  # of JSON that is not what we wrote
        raise UserError(
            f"{path} is damaged: one of its JSON files lacks what clpds writes there ({error!r})"
        ) from error


def _kind(path: Path) -> Rows:
    if path.suffix == ".gguf":
        return kinds.gguf(path)
    if (path / STAGE).is_file():
        return kinds.run(path)
    if kinds.is_zero(path):
        return kinds.zero(path)
    verb = (provenance.read(path) or {}).get("verb") if path.is_dir() else None
    if verb == "data":
        return kinds.data(path)
    if verb == "pairs":
        return kinds.pairs(path)
    if verb == "embeddings":
        return kinds.embeddings(path)
    if (path / "config.json").is_file() or not path.exists():  # a folder, or a name on the hub
        return model(path)
    if has_tokenizer(path):
        return [("kind", "tokenizer"), *tokenizer(path)]
    raise UserError(f"{path} is no model, training run, checkpoint, data set or tokenizer that clpds knows")


def _origin(path: Path) -> Rows:
    """The verb that made the folder, the parameters that are not the defaults, the inputs."""
    record = provenance.read(path) if path.is_dir() else None
    if record is None:
        return []
    defaults = {f.name: json.loads(json.dumps(f.default, default=str)) for f in fields(recipe.VERBS[record["verb"]])}
    inputs = {role: entry["path"] for role, entry in record["inputs"].items()}
    options = [
        f"--{key.replace('_', '-')}" + ("" if value is True else f" {value}")
        for key, value in record["parameters"].items()
        if value != defaults.get(key) and key not in inputs and key != "input"
    ]
    rows = [("made by", " ".join([f"clpds {record['verb']}", *options]))]
    if inputs:
        rows.append(("from", ", ".join(f"{role} {where}" for role, where in inputs.items())))
    return rows


def _recorded(path: Path) -> dict[Path, str]:
    """Folders whose files are on record, of a run several, and which file of each says what was written."""
    inner = [*kinds.checkpoints(path), path / "model", path / "initial"] if (path / STAGE).is_file() else [path]
    records = [(folder, name) for folder in inner for name in (manifest.FILE, provenance.FILE)]
    return {folder: name for folder, name in records if (folder / name).is_file()}


def _count(record: Path) -> int:
    """How many files are on record."""
    files = read_json(record).get("files")
    if not isinstance(files, dict):
        raise UserError(f"{record} is damaged: it lists no files")
    return len(files)


def _problems(folder: Path, record: str, *, deep: bool) -> list[str]:
    """A phrase for each file that is not as written."""
    if record == manifest.FILE:
        return check_manifest(folder, deep=deep)
    if not deep:
        return []
    return [f"{name} is missing or not what was written" for name in provenance.verify(folder)]


def _some(problems: list[str], limit: int = 5) -> str:
    more = f" and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(problems[:limit]) + more
