"""A folder in which every verb that writes can run, and the command itself, in this process."""

import shlex
from collections.abc import Callable
from pathlib import Path

import deepspeed
import pytest

from tests.bad_inputs.inputs import copy_of, write_good
from tests.test_cli import call

Clpds = Callable[[str], tuple[object, str]]


@pytest.fixture(scope="package")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert deepspeed.ops.__compatible_ops__  # asks a linker once, which pytest keeps DeepSpeed from silencing
    folder = tmp_path_factory.mktemp("good")
    write_good(folder)
    steps = "steps: {init: {verb: init, method: random, source: english, tokenizer: tokenizer, out: new}}"
    (folder / "r.yaml").write_text(steps)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy_of(good, tmp_path, monkeypatch)


@pytest.fixture
def clpds(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Clpds:
    """Run a command in this process; its status and what it wrote to stderr."""

    def run(words: str) -> tuple[object, str]:
        capfd.readouterr()
        return call(monkeypatch, *shlex.split(words)), capfd.readouterr().err

    return run
