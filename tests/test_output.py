"""A folder that exists is whole, whatever happens while it is written."""

import errno
import os
from pathlib import Path

import pytest

from clpds import provenance
from clpds.errors import UserError
from clpds.output import check_disk, human_bytes, new_folder, replace_folder, write_text
from clpds.recipe import Convert


def fill(folder: Path, text: str) -> None:
    """What a verb writes, with its record."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a").write_text(text)
    (folder / text).mkdir()
    (folder / text / "b").write_text(text)
    provenance.record(folder, Convert(model=Path("x"), out=folder), {})


def write_and_fail(out: Path, error: type[BaseException]) -> None:
    with new_folder(out, overwrite=True) as folder:
        fill(folder, "new")
        raise error


def test_appears_whole_and_alone(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        fill(folder, "new")
        assert not out.exists()
    assert (out / "a").read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
def test_an_error_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for before in (None, "old"):
        if before:
            fill(out, before)
        with pytest.raises(error):
            write_and_fail(out, error)
        assert {path.name for path in tmp_path.iterdir()} == ({"out"} if before else set())
    assert (out / "a").read_text() == "old"


def test_overwrite_replaces_and_leaves_no_file_of_the_old(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, "old")
    with pytest.raises(UserError, match=r"out exists; .*--overwrite"), new_folder(out):
        pass
    with new_folder(out, overwrite=True) as folder:
        fill(folder, "new")
    assert {path.name for path in out.iterdir()} == {"a", "new", "provenance.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "nothing", tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_what_must_not_be_replaced_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "project" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "inner")
    for out in (tmp_path / "file", tmp_path / "link", Path(), Path(".."), tmp_path / "project", Path("/")):
        with pytest.raises(UserError), new_folder(out, overwrite=True):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "target", "project"}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file/out cannot be written: .+"), new_folder(tmp_path / "file" / "out"):
        pass
    if Path("/proc/self").exists():
        with pytest.raises(UserError, match="/proc/out cannot be written"), new_folder(Path("/proc/out")):
            pass


def test_a_disk_too_small_is_known_before(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out needs 1000000\.00 TB, but .* free"):
        check_disk(tmp_path / "no" / "such" / "out", 10**18)
    with pytest.raises(UserError, match="needs"), new_folder(tmp_path / "out", need=10**18):
        pass
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="out cannot be written: No space left"), new_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_text_is_replaced_in_one_go(tmp_path: Path) -> None:
    write_text(tmp_path / "latest", "one")
    write_text(tmp_path / "latest", "zwei ä")
    assert (tmp_path / "latest").read_text(encoding="utf-8") == "zwei ä"
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


@pytest.mark.parametrize(("size", "text"), [(999, "999 B"), (1000, "1.0 kB"), (5.4e8, "540.0 MB"), (2e12, "2.00 TB")])
def test_sizes_as_people_read_them(size: float, text: str) -> None:
    assert human_bytes(size) == text
