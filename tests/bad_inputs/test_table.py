"""Every row of the table: exit status 2, one line that says what is wrong, nothing written."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import deepspeed
import pytest

from clpds.checkpoint import open_checkpoint
from clpds.cli import VERBS
from clpds.vocabulary.roles import special_ids
from tests.bad_inputs import checkpoints, embeddings, folders, recipes, text, tokenizers, training
from tests.bad_inputs.inputs import copy_of, write_good
from tests.bad_inputs.row import Row
from tests.test_cli import call
from tests.tiny import save_model, tiny_model, tiny_tokenizer

ROOMS = (recipes, checkpoints, text, tokenizers, embeddings, training, folders)
ROWS = [row for room in ROOMS for row in room.ROWS]
PROCESSES = [recipes.ROWS[0], training.ROWS[0], *training.IN_A_PROCESS]
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert deepspeed.ops.__compatible_ops__  # asks a linker once, which pytest keeps DeepSpeed from silencing
    folder = tmp_path_factory.mktemp("good")
    write_good(folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that the test may damage and in which it runs; alone, as a rank; a document of 2000 characters is long."""
    copy = copy_of(good, tmp_path, monkeypatch)
    monkeypatch.setattr("clpds.data.read.DOCUMENT", 2000)
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    return copy


def listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*")}


def check(row: Row, status: object, err: str) -> None:
    verb = row.command.split()[0]
    assert status == 2, err
    assert err.startswith(f"clpds {verb}: error: "), err
    assert row.says in err
    assert err.count("\n") == 1
    assert len(err) <= 500


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.wrong)
def test_bad_input_is_one_line_and_nothing_is_written(
    row: Row, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rank of training ends its process at once, which here would be the tests' own: it leaves in the usual way."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    for change in row.changes:
        change(folder)
    before = listing(folder)
    status = call(monkeypatch, *shlex.split(row.command))
    check(row, status, capfd.readouterr().err)
    assert listing(folder) == before


@pytest.mark.parametrize("row", PROCESSES, ids=lambda row: row.wrong)
def test_the_command_itself_does_the_same(row: Row, folder: Path) -> None:
    """In a process of its own, as a user calls it."""
    for change in row.changes:
        change(folder)
    before = listing(folder)
    command = [sys.executable, "-m", "clpds", *shlex.split(row.command)]
    plain = {name: value for name, value in os.environ.items() if name not in ALONE}
    done = subprocess.run(command, capture_output=True, text=True, env=plain, timeout=120)
    check(row, done.returncode, done.stderr)
    assert listing(folder) == before


def test_a_helper_larger_than_the_source_is_fine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its embedding is used, which may be wider than the source's."""
    wide = tiny_model("llama", 600, hidden_size=64, num_hidden_layers=4, **special_ids(tiny_tokenizer("byte_bpe")))
    save_model(folder / "wide", wide, tiny_tokenizer("byte_bpe"))
    assert call(monkeypatch, *shlex.split("init --source english --helper wide --out out")) == 0
    assert open_checkpoint(folder / "out").config.hidden_size == 32


def test_every_verb_has_rows() -> None:
    assert {row.command.split()[0] for row in [*ROWS, *PROCESSES]} == VERBS.keys()
    assert len({row.wrong for row in ROWS}) == len(ROWS) >= 80


def test_debug_shows_where_the_error_arose(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CLPDS_DEBUG", "")  # so that it is taken back after this test
    assert call(monkeypatch, "run", "no.yaml", "--debug") == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert "in load_recipe" in err
    assert err.splitlines()[-1].startswith("clpds run: error: no.yaml does not exist")
