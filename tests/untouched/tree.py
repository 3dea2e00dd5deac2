"""What a folder tree is, to the byte, and what a user may have put into it."""

import json
from collections.abc import Callable
from pathlib import Path

from clpds import provenance
from clpds.recipe import Convert

State = tuple[str, bytes, int]
"""What an entry is, its content or target, and its permissions."""


def tree(folder: Path) -> dict[str, State]:
    """Every entry below ``folder``: links are not followed."""
    return {path.relative_to(folder).as_posix(): _state(path) for path in sorted(folder.rglob("*"))}


def _state(path: Path) -> State:
    mode = path.lstat().st_mode
    if path.is_symlink():
        return "link", bytes(path.readlink()), 0
    return ("folder", b"", mode) if path.is_dir() else ("file", path.read_bytes(), mode)


def write(path: Path, text: str = "mine") -> None:
    """A file of the user's, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_ours(folder: Path) -> None:
    """A folder as a verb leaves it."""
    write(folder / "config.json", "{}")
    write(folder / "deep" / "model.safetensors", "weights")
    provenance.record(folder, Convert(model=Path("x"), out=folder), {})


def home(out: Path) -> None:
    """A folder that has nothing to do with us."""
    write(out / ".ssh" / "id_ed25519", "key")
    write(out / "photo.jpg", "photo")


def foreign_record(out: Path) -> None:
    """A folder of another program with a record of the same name."""
    write(out / "provenance.json", json.dumps({"files": {"a": "b"}, "author": "me"}))
    write(out / "a")


def unreadable_record(out: Path) -> None:
    """Nothing says any more which files are ours."""
    make_ours(out)
    write(out / "provenance.json", "{")


def with_notes(out: Path) -> None:
    """The user's notes in our folder."""
    make_ours(out)
    write(out / "deep" / "notes.txt")


def with_folder(out: Path) -> None:
    """An empty folder of the user's in ours."""
    make_ours(out)
    (out / "figures").mkdir()


def with_link(out: Path) -> None:
    """A recorded file that the user has put elsewhere."""
    make_ours(out)
    write(out.parent / "elsewhere")
    (out / "config.json").unlink()
    (out / "config.json").symlink_to(out.parent / "elsewhere")


def run(out: Path) -> None:
    """A training run: days of compute."""
    write(out / "state.json", json.dumps({"state": "finished", "step": 9}))
    write(out / "checkpoints" / "step-00000009" / "weights")


def a_file(out: Path) -> None:
    """A file where a folder is to be written."""
    write(out)


def link_to_ours(out: Path) -> None:
    """A link to a folder of ours."""
    make_ours(out.parent / "real")
    out.symlink_to("real")


def dangling(out: Path) -> None:
    """A link to nothing, perhaps to a disk that is not mounted."""
    out.symlink_to("/nowhere/at/all")


REFUSED: tuple[Callable[[Path], None], ...] = (
    home, foreign_record, unreadable_record, with_notes, with_folder, with_link, run, a_file, link_to_ours, dangling,
)  # fmt: skip


def neighbours(out: Path) -> None:
    """Names beside the output that look like ours and are the user's."""
    for suffix in (".old", ".partial", ".work", ".clpds-1a2b3c4d", "-old"):
        write(out.with_name(out.name + suffix) / "thesis.tex")
    write(out.with_name(f"{out.name}.clpds-partial"))
    write(out.with_name(f".{out.name}"))
