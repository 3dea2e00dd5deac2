"""The manifest says whether a training checkpoint is whole, by size and by hash."""

import json
import re
from pathlib import Path

import pytest
import xxhash

from clpds.errors import UserError
from clpds.manifest import check_manifest, hash_files, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in (("b.pt", b"weights" * 1000), ("a.pt", b""), ("trainer.json", b"{}")):
        (tmp_path / name).write_bytes(data)
    first, second = hash_files([tmp_path / "b.pt"]), hash_files([tmp_path / "a.pt", tmp_path / "trainer.json"])
    write_manifest(tmp_path, first | second)  # as two ranks do
    return tmp_path


def test_a_whole_folder_has_no_problems(folder: Path) -> None:
    assert check_manifest(folder, deep=True) == check_manifest(folder, deep=False) == []
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert list(files) == ["a.pt", "b.pt", "trainer.json"]
    assert files["b.pt"] == {"size": 7000, "xxh3": xxhash.xxh3_128_hexdigest(b"weights" * 1000)}


def test_a_lost_file_and_a_wrong_size_are_named(folder: Path) -> None:
    (folder / "a.pt").unlink()
    (folder / "trainer.json").write_text("{}\n")
    for deep in (False, True):
        assert check_manifest(folder, deep=deep) == ["a.pt is missing", "trainer.json has 3 bytes instead of 2"]


def test_only_the_deep_check_reads_the_bytes(folder: Path) -> None:
    data = bytearray((folder / "b.pt").read_bytes())
    data[5000] ^= 1
    (folder / "b.pt").write_bytes(data)
    assert check_manifest(folder, deep=False) == []
    assert check_manifest(folder, deep=True) == ["b.pt is not what was written (its hash differs)"]


def test_no_manifest_means_never_finished(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was never completely written"):
        check_manifest(tmp_path, deep=False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"a.pt": {}}}', '{"files": []}'])
def test_a_damaged_manifest_is_named(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(f"{folder / 'manifest.json'} is no valid manifest")):
        check_manifest(folder, deep=False)
