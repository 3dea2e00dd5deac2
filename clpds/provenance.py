"""``provenance.json``: where an output folder comes from, and what its files must hash to.

It holds no clock, host or absolute path of ours, so equal inputs give equal bytes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clpds.errors import UserError
from clpds.progress import progress
from clpds.recipe import Step, verb_of

FILE = "provenance.json"
PACKAGES = ("clpds", "torch", "transformers", "tokenizers", "sentencepiece", "datasets", "deepspeed")
CHUNK = 16 * 2**20  # bytes hashed at once


def record(folder: Path, step: Step, inputs: Mapping[str, Path | None], **facts: Any) -> None:
    """Describe the finished ``folder``: the verb, its parameters, hashes of inputs and of files.

    ``inputs`` maps a role ("source", "helper") to the file or folder that was read; ``facts`` are
    the numbers worth keeping (coverage, counts), JSON-serialisable.
    """
    document = {
        "verb": verb_of(step),
        "parameters": parameters(step),
        "inputs": {role: _input(path) for role, path in inputs.items() if path is not None},
        "versions": {name: installed for name in PACKAGES if (installed := _version(name))},
        **facts,
        "files": _hashes(folder),
    }
    (folder / FILE).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def parameters(step: Step) -> dict[str, Any]:
    """The step as plain JSON, without the keys that do not change what is made."""
    plain = json.loads(json.dumps(asdict(step), default=str))
    return {key: value for key, value in plain.items() if key not in ("out", "overwrite", "workers")}


def read(folder: Path) -> dict[str, Any] | None:
    """The record of ``folder``, or None where it has none; UserError where it cannot be read."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("no mapping")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); make the folder again") from error
    return document


def verify(folder: Path) -> list[str]:
    """Names of recorded files that are missing or no longer hash to what was written."""
    recorded = (read(folder) or {}).get("files", {})
    found = _hashes(folder)
    return [name for name, digest in recorded.items() if found.get(name) != digest]


def hash_file(path: Path, advance: Callable[[float], None] = lambda megabytes: None) -> str:
    """SHA-256 in hex, as ``sha256sum`` prints it; ``advance`` is told of the megabytes read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk) / 10**6)
    return digest.hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    with progress(f"hashing {folder} (MB)", sum(path.stat().st_size for path in files) // 10**6) as advance:
        return {path.relative_to(folder).as_posix(): hash_file(path, advance) for path in files}


def _input(path: Path) -> dict[str, Any]:
    if path.is_file():
        return {"path": str(path), "sha256": hash_file(path)}
    return {"path": str(path)} | ({"files": _hashes(path)} if path.is_dir() else {})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
