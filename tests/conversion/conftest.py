"""One training of all cases for the whole folder, and copies of it to damage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conversion.saves import CASES, Case, Held, fresh, train_and_save
from tests.ranks import run_ranks
from tests.tiny import tiny_tokenizer


class Saves:
    """The cases' saves under ``root``, and what their engines held."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.held: dict[str, Held] = {}
        for ranks in (2, 1):
            self.held |= run_ranks(ranks, train_and_save, root, tuple(case for case in CASES if case.ranks == ranks))[0]
        for case in CASES:
            model = fresh(case)
            model.config.dtype = getattr(torch, case.dtype)
            model.config.architectures = [type(model).__name__]
            for file in (model.config, model.generation_config, tiny_tokenizer("byte_bpe", vocab_size=400)):
                file.save_pretrained(root / case.name)

    def folder(self, case: Case) -> Path:
        return self.root / case.name / "global_step2"


@pytest.fixture(scope="session")
def saves(tmp_path_factory: pytest.TempPathFactory) -> Saves:
    return Saves(tmp_path_factory.mktemp("saves"))


@pytest.fixture
def copy_of(saves: Saves, tmp_path: Path) -> Callable[[Case], Path]:
    """A function that gives a copy of a case's DeepSpeed checkpoint folder, its config beside it."""

    def copy(case: Case) -> Path:
        return shutil.copytree(saves.root / case.name, tmp_path / case.name) / "global_step2"

    return copy
