"""``manifest.json`` of a training checkpoint: the size and the xxh3-128 hash of every file.

It is written last, so a checkpoint folder without one was never finished.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import xxhash

from clpds.bounds import RECORD
from clpds.errors import UserError
from clpds.inside import read_json, require_inside
from clpds.output import write_text
from clpds.progress import progress
from clpds.refusals import require_given

FILE = "manifest.json"
CHUNK = 2**20  # bytes read at once


def hash_files(paths: Iterable[Path]) -> dict[str, tuple[int, str]]:
    """File name to (size in bytes, xxh3-128 in hex); a rank calls it for the files that it wrote."""
    return {path.name: (path.stat().st_size, _hash(path)) for path in paths}


def write_manifest(folder: Path, hashes: Mapping[str, tuple[int, str]]) -> None:
    """Write ``manifest.json`` atomically: the whole folder's files, from all ranks' ``hash_files``."""
    files = {name: {"size": size, "xxh3": digest} for name, (size, digest) in sorted(hashes.items())}
    write_text(folder / FILE, json.dumps({"files": files}, indent=2) + "\n")


def written_names(folder: Path) -> set[str]:
    """The manifest and the files that it names. Raises what ``check_manifest`` does."""
    return {FILE, *_read(folder)}


def _read(folder: Path) -> dict[str, tuple[int, str]]:
    path = folder / FILE
    try:
        files = {
            name: (int(file["size"]), str(file["xxh3"])) for name, file in read_json(path, RECORD)["files"].items()
        }
    except FileNotFoundError:
        raise UserError(f"{folder} has no {FILE}: it was never completely written") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        require_given(path, error)
        raise UserError(f"{path} is no valid manifest ({type(error).__name__}: {error})") from error
    require_inside(path, *files)
    return files


def check_manifest(folder: Path, *, deep: bool, part: tuple[int, int] = (0, 1)) -> list[str]:
    """Check the files that the manifest names; returns a phrase for each problem, none when all is well.

    Compares sizes, and with ``deep`` hashes too (every byte is read). Of ``part`` (k, n) is every n-th file, from
    number k. Raises UserError where there is no manifest or it is none, UnreadableError where the
    system does not give it.
    """
    files = _read(folder)
    problems, right = [], {}
    for name, (size, digest) in list(files.items())[part[0] :: part[1]]:
        file = folder / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif (found := file.stat().st_size) != size:
            problems.append(f"{name} has {found} bytes instead of {size}")
        else:
            right[name] = digest
    if deep:
        with progress(f"checking {folder} (MB)", sum(files[name][0] for name in right) // 10**6) as advance:
            wrong = [name for name, digest in right.items() if _hash(folder / name, advance) != digest]
        problems += [f"{name} is not what was written (its hash differs)" for name in wrong]
    return problems


def _hash(path: Path, advance: Callable[[float], None] = lambda megabytes: None) -> str:
    state = xxhash.xxh3_128()
    # Into one buffer that stays in the processor's cache: 20 GB/s of what the system has in memory, and 5 GB/s where
    # every read makes new bytes of 16 MiB.
    chunk = memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            state.update(chunk[:count])
            advance(count / 10**6)
    return state.hexdigest()
