"""A row of the table, and the changes to files that rows are made of."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Change = Callable[[Path], object]


class Row(NamedTuple):
    """What is wrong, the command, and what its one line says.

    The command runs in a copy of the folder of ``inputs.write_good``, after the changes.
    """

    wrong: str
    command: str
    says: str
    """A part of the message: the file or key, and what to do."""
    changes: tuple[Change, ...] = ()


def write(name: str, content: str | bytes) -> Change:
    """Write a file, with its folders."""

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def edit(name: str, **values: Any) -> Change:
    """Set keys of a JSON file."""

    def change(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(document | values))

    return change


def recipe(**steps: Mapping[str, Any]) -> Change:
    """Write ``r.yaml`` with these steps."""
    return write("r.yaml", yaml.safe_dump({"steps": steps}, sort_keys=False))


def remove(*names: str) -> Change:
    """Remove files."""
    return lambda folder: [(folder / name).unlink() for name in names]


def link(name: str, goal: str) -> Change:
    """Put a symbolic link in the place of a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(goal)

    return change


def cut(name: str, keep: float) -> Change:
    """Keep the first share of a file."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return change


def copy(name: str, goal: str) -> Change:
    """Copy a file."""
    return lambda folder: shutil.copyfile(folder / name, folder / goal)


def header(name: str, change_entries: Callable[[dict[str, Any]], object]) -> Change:
    """Rewrite the header of a safetensors file; its bytes of weights stay."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + length])
        entries = change_entries(entries) or entries
        text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
        (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return change
