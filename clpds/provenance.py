"""``provenance.json``: where an output folder comes from, and what its files must hash to.

It holds no clock, host or absolute path of ours, so equal inputs give equal bytes.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clpds.bounds import RECORD as LARGEST
from clpds.errors import UserError
from clpds.folders.claim import held
from clpds.folders.ours import RECORD
from clpds.inside import read_json
from clpds.progress import progress
from clpds.recipe import Step, verb_of
from clpds.refusals import require_given
from clpds.sharing import ALONE, World, share_out

FILE = RECORD
PACKAGES = ("clpds", "torch", "transformers", "tokenizers", "sentencepiece", "datasets", "deepspeed")
CHUNK = 16 * 2**20  # bytes hashed at once


def record(
    folder: Path,
    step: Step,
    inputs: Mapping[str, Path | None],
    *,
    world: World = ALONE,
    known: Mapping[Path, str] | None = None,
    unread: Collection[Path] = (),
    **facts: Any,
) -> None:
    """Describe the finished ``folder``: the verb, its parameters, hashes of inputs and of files.

    ``inputs`` maps a role ("source", "helper") to the file or folder that was read; ``facts`` are
    the numbers worth keeping (coverage, counts), JSON-serialisable. All ranks of ``world`` call it and
    share the hashing of the files whose hash none of them has ``known``; those ``unread`` get none.
    """
    read = {role: path for role, path in inputs.items() if path is not None}
    late = _come_since(step, read.values())
    hashes = _share_hashing(world, known or {}, {*unread, *late}, folder, *read.values())

    def write() -> None:
        document = {
            "verb": verb_of(step),
            "parameters": parameters(step),
            "inputs": {role: _input(path, hashes) for role, path in read.items()},
            "versions": {name: installed for name in PACKAGES if (installed := _version(name))},
            **facts,
            "files": _below(folder, hashes),
        }
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (folder / FILE).write_bytes(text.encode("utf-8", "backslashreplace"))  # a name may not be UTF-8

    world.on_first(write)


def _come_since(step: Step, inputs: Iterable[Path]) -> list[Path]:
    """Files in the folders of ``inputs`` that were not there when the step began: nobody has read them."""
    out: Path | None = getattr(step, "out", None)
    claim = held(out) if out else None
    if claim is None or not claim.stamps:
        return []
    return [file for path in inputs if path.is_dir() for file in _files(path) if file not in claim.stamps]


def parameters(step: Step) -> dict[str, Any]:
    """The step as plain JSON, without the keys that do not change what is made."""
    plain = json.loads(json.dumps(asdict(step), default=str))
    return {key: value for key, value in plain.items() if key not in ("out", "overwrite", "workers", "only")}


def read(folder: Path) -> dict[str, Any] | None:
    """The record of ``folder``, or None where it has none; UserError where it cannot be read."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        document: dict[str, Any] = read_json(path, LARGEST)
        if not isinstance(document, dict):
            raise ValueError("no mapping")
    except (ValueError, OSError, RecursionError) as error:
        require_given(path, error)
        raise UserError(f"{path} is not readable JSON ({error}); make the folder again") from error
    return document


def verify(folder: Path) -> list[str]:
    """Names of recorded files that are missing or no longer hash to what was written."""
    recorded = (read(folder) or {}).get("files", {})
    found = _below(folder, _hash(folder, _files(folder)))
    return [name for name, digest in recorded.items() if found.get(name) != digest]


def hash_file(path: Path, advance: Callable[[float], None] = lambda megabytes: None) -> str:
    """SHA-256 in hex, as ``sha256sum`` prints it; ``advance`` is told of the megabytes read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk) / 10**6)
    return digest.hexdigest()


def _share_hashing(world: World, known: Mapping[Path, str], unread: Collection[Path], *paths: Path) -> dict[Path, str]:
    """Hashes of all files in ``paths`` but those ``unread``: what the ranks know, the others in about equal shares."""
    hashes = {file: digest for part in world.gather(dict(known)) for file, digest in part.items()}

    def others() -> dict[str, int]:
        files = [file for path in paths for file in _files(path)]
        return {str(file): file.stat().st_size for file in files if file not in hashes and file not in unread}

    owners = share_out(world.on_first(others), world.size)
    mine = [Path(file) for file, rank in owners.items() if rank == world.rank]
    for part in world.gather(world.agree(lambda: _hash(paths[0], mine))):
        hashes |= part
    return hashes


def _files(path: Path) -> list[Path]:
    """The files to hash: ``path`` itself, or all in the folder but its own record."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and file.name != FILE)
    return [path] if path.is_file() else []


def _hash(what: Path, files: Sequence[Path]) -> dict[Path, str]:
    with progress(f"hashing {what} (MB)", sum(file.stat().st_size for file in files) // 10**6) as advance:
        return {file: hash_file(file, advance) for file in files}


def _below(folder: Path, hashes: Mapping[Path, str]) -> dict[str, str]:
    """Those of ``hashes`` that lie in ``folder``, by their names there."""
    return {file.relative_to(folder).as_posix(): hashes[file] for file in sorted(hashes) if folder in file.parents}


def _input(path: Path, hashes: Mapping[Path, str]) -> dict[str, Any]:
    if path in hashes:
        return {"path": str(path), "sha256": hashes[path]}
    return {"path": str(path)} | ({"files": _below(path, hashes)} if path.is_dir() else {})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
