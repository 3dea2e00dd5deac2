"""Whether a step of a recipe has been done, and what it reads and writes; no heavy import."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from clpds import provenance
from clpds.errors import UserError
from clpds.folders.inputs import paths
from clpds.recipe import Step, Train
from clpds.run_folder import METRICS, saved_step


def is_done(step: Step, name: str) -> bool:
    """Whether the step's output is there and made from what its inputs are now.

    A file (numbers, a picture) is made again when an input is newer. For a folder that was made with
    other parameters, or from an input that has changed since, raises UserError: it may have cost days.
    """
    out: Path | None = getattr(step, "out", None)
    if isinstance(step, Train):
        return saved_step(step.out) >= step.steps
    if out is None or not out.exists() or getattr(step, "overwrite", False):
        return False
    if out.is_file():
        return all(changed_at(path) <= out.stat().st_mtime for path in paths(step) if path != out)
    before = provenance.read(out)
    if before is None:
        return False  # the step itself says that the folder exists
    now = provenance.parameters(step)
    later = {field.name: field.default for field in fields(step) if field.name not in before["parameters"]}
    for key in now:
        if key in later and getattr(step, key) == later[key]:
            continue  # made by a version that had no such option
        if (was := before["parameters"].get(key)) != now[key]:
            raise UserError(f"{out} was made with {key} {was}, now {now[key]}; remove it or set {name}.overwrite=true")
    for entry in before["inputs"].values():
        if _differs(entry, made_at=(out / provenance.FILE).stat().st_mtime):
            raise UserError(
                f"{out} was made from another {entry['path']} than there is now; remove it or set {name}.overwrite=true"
            )
    return True


def _differs(entry: dict[str, Any], made_at: float) -> bool:
    """Whether a recorded input is there with other content; a file is hashed only if it is newer."""
    path = Path(entry["path"])
    if path.is_file():
        return path.stat().st_mtime > made_at and provenance.hash_file(path) != entry.get("sha256")
    record = provenance.read(path)
    return record is not None and record["files"] != entry.get("files")


def changed_at(path: Path) -> float:
    """When a file or an output folder was written; 0 where that does not show."""
    marks = [path] if path.is_file() else [path / provenance.FILE, path / METRICS]
    return max((mark.stat().st_mtime for mark in marks if mark.is_file()), default=0.0)
