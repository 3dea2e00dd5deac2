"""What may be replaced: an output that clpds made, with nothing of the user's in it.

A folder proves that by its record (``provenance.json`` lists its files), a picture, a page or a JSON file by who made
it, a training run by its state. A name proves nothing.
"""

import os
from pathlib import Path
from typing import Any

from clpds.bounds import PROOF
from clpds.errors import UserError
from clpds.folders import mark
from clpds.inside import read_json

RECORD = "provenance.json"
MADE_BY = "made_by"
PNG = b"\x89PNG\r\n\x1a\n"
SOFTWARE = "clpds"  # what our PNG files have under "Software", and our pages as their generator
RUN = ("checkpoints", "model", "initial", "tensorboard", "metrics.jsonl", "latest", "bad_batches.json")
STATES = ("state.json", "stage.json")


def require_replaceable(out: Path, *, overwrite: bool) -> None:
    """Raise UserError unless there is no ``out``, or it is a folder that ``overwrite`` allows to replace.

    That is one that clpds made, all of whose files its record lists, or an empty one.
    """
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise UserError(f"{out} is a file or a link; choose another name for the output folder")
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"{out} holds the current directory and will not be replaced; choose another folder")
    reason = not_ours(out)
    if reason:
        raise UserError(f"{out} exists and will not be replaced: {reason}; choose another folder")
    if not overwrite:
        raise UserError(f"{out} exists; choose another folder or pass --overwrite")


def not_ours(folder: Path) -> str | None:
    """Why the folder is not provably ours alone; None where it is, or where it is empty."""
    entries = [Path(root) / name for root, folders, files in os.walk(folder) for name in (*files, *folders)]
    if not entries:
        return None
    if is_run(folder):
        return "it is a training run; remove it yourself if you want to lose it"
    record = _json(folder / RECORD)
    if not isinstance(record, dict) or not _is_record(record):
        return f"it has no {RECORD} of clpds"
    files = {RECORD, *record["files"], *record.get("linked", ())}
    folders = {parent.as_posix() for name in files for parent in Path(name).parents}
    theirs = [
        name
        for path in entries
        if (name := path.relative_to(folder).as_posix()) not in (folders if path.is_dir() else files)
        or path.is_symlink()
    ]
    return f"clpds did not write {_some(theirs)} in it" if theirs else None


def _is_record(record: dict[str, Any]) -> bool:
    versions, files, linked = record.get("versions"), record.get("files"), record.get("linked", [])
    names = isinstance(linked, list) and all(isinstance(name, str) for name in linked)
    return isinstance(record.get("verb"), str) and isinstance(versions, dict) and isinstance(files, dict) and names


def is_run(folder: Path) -> bool:
    """Whether a training run has said here how it stands."""
    states = [document for name in STATES if isinstance(document := _json(folder / name), dict)]
    return any(("state" in document and "step" in document) or "global_batch" in document for document in states)


def require_run_folder(run: Path) -> None:
    """Raise UserError where a training would write over what no run has written."""
    if is_run(run):
        return
    theirs = [name for name in (*RUN, *STATES) if os.path.lexists(run / name)]
    if "checkpoints" in theirs and (run / "checkpoints").is_dir() and not any((run / "checkpoints").iterdir()):
        theirs.remove("checkpoints")  # laid out beforehand, perhaps as a link to a larger disk
    if "initial" in theirs and not_ours(run / "initial") is None:  # written before a start says how it stands
        theirs.remove("initial")
    if theirs:
        raise UserError(f"{run} is no training run, but has {_some(theirs)}; choose another out")


def require_file(out: Path, *, overwrite: bool) -> None:
    """Raise UserError unless the file ``out`` can be written, its folders perhaps to be made.

    A file that is there is replaced where ``overwrite`` says so, or where it is plainly one of clpds's own.
    """
    there = next(path for path in (out.absolute(), *out.absolute().parents) if os.path.lexists(path))
    if there != out.absolute():
        if not there.is_dir():
            raise UserError(f"{out} cannot be written: {there} is a file; choose another name")
        return
    if out.is_symlink() or not (out.is_file() or out.is_dir()):
        raise UserError(f"{out} is a link or a device; choose another name for the file")
    if out.is_dir():
        raise UserError(f"{out} is a folder; choose another name for the file")
    if not overwrite and not is_own_file(out):
        raise UserError(f"{out} exists and clpds did not write it; choose another name or pass --overwrite")


def is_own_file(path: Path) -> bool:
    """Whether a JSON file, a PNG or a page says that clpds made it."""
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(PNG):
        return b"Software\0" + SOFTWARE.encode() in start
    if start.lstrip()[:15].lower() == b"<!doctype html>":
        return f'<meta name="generator" content="{SOFTWARE}">'.encode() in start
    document = _json(path)
    return isinstance(document, dict) and str(document.get(MADE_BY, "")).startswith(SOFTWARE)


def grow_folder(out: Path) -> None:
    """Make or take over the folder ``out``, into which a command writes file after file.

    Raises UserError for a folder with content that no such command has marked.
    """
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir()):
        raise UserError(f"{out} is a file or a link; choose another name for the output folder")
    if out.is_dir() and any(out.iterdir()):
        found = mark.read_mark(out)
        if found is None or found.clpds != "folder":  # its name may be another since
            raise UserError(f"{out} has content that clpds did not write; choose another folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    mark.put_mark(out, "folder", out)


def _json(path: Path) -> Any:
    """The document in a small regular file, or None."""
    if path.is_symlink():
        return None
    try:
        return read_json(path, PROOF)
    except (UserError, OSError, ValueError, RecursionError):
        return None


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
