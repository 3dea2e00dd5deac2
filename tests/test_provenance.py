"""provenance.json says what was read, with what, and what the files must hash to; no clock, no host."""

import hashlib
import json
import socket
from pathlib import Path

import pytest

from clpds import provenance
from clpds.errors import UserError
from clpds.recipe import Convert


def make(folder: Path, source: Path, out: str = "out", **facts: object) -> dict[str, object]:
    (folder / "shards").mkdir(parents=True)
    (folder / "a").write_text("one")
    (folder / "shards" / "b").write_bytes(bytes(2**25))
    step = Convert(model=source, out=Path(out), overwrite=True, dtype="bfloat16")
    provenance.record(folder, step, {"model": source, "helper": None, "hub": Path("org/name")}, **facts)
    document: dict[str, object] = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    return document


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x").write_text("x")
    return tmp_path / "source"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_it_says_what_was_read_and_made(source: Path, tmp_path: Path) -> None:
    document = make(tmp_path / "out", source, coverage=0.5, text="ä")
    assert document["verb"] == "convert"
    assert document["parameters"] == {
        "model": str(source),
        "dtype": "bfloat16",
        "max_shard_size": "5GB",
        "verify": False,
    }
    assert document["inputs"] == {
        "model": {"path": str(source), "files": {"x": sha256(b"x")}},
        "hub": {"path": "org/name"},
    }
    assert document["files"] == {"a": sha256(b"one"), "shards/b": sha256(bytes(2**25))}
    assert (document["coverage"], document["text"]) == (0.5, "ä")
    versions = document["versions"]
    assert isinstance(versions, dict)
    assert {"clpds", "torch", "transformers"} <= versions.keys()


def test_equal_inputs_give_equal_bytes_wherever_they_are_written(source: Path, tmp_path: Path) -> None:
    make(tmp_path / "one", source, out="one")
    make(tmp_path / "two", source, out="elsewhere/two")
    text = (tmp_path / "one" / "provenance.json").read_bytes()
    assert text == (tmp_path / "two" / "provenance.json").read_bytes()
    assert socket.gethostname().encode() not in text


def test_an_input_that_changed_after_it_was_made_hashes_as_it_is(source: Path, tmp_path: Path) -> None:
    make(tmp_path / "first", source)
    (tmp_path / "first" / "a").write_text("edited by hand")
    second = make(tmp_path / "second", tmp_path / "first")
    inputs = second["inputs"]
    assert isinstance(inputs, dict)
    assert inputs["model"]["files"]["a"] == sha256(b"edited by hand")


def test_verify_names_what_changed_or_is_gone(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    make(folder, source)
    assert provenance.verify(folder) == []
    (folder / "more").write_text("not recorded, not a fault")
    with (folder / "shards" / "b").open("r+b") as file:
        file.seek(2**24)
        file.write(b"\1")
    assert provenance.verify(folder) == ["shards/b"]
    (folder / "a").unlink()
    assert provenance.verify(folder) == ["a", "shards/b"]
    assert provenance.verify(source) == []


def test_a_record_that_cannot_be_read_is_named(source: Path, tmp_path: Path) -> None:
    assert provenance.read(source) is None
    for text in ("{", "[]", "\udcff"):
        (source / "provenance.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError, match=r"source/provenance\.json is not readable JSON .*; make the folder again"):
            provenance.read(source)


def test_a_file_hashes_as_sha256sum_prints_it(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert provenance.hash_file(tmp_path / "abc") == digest
