"""One cluster for all tests of this folder, where the machine can have one, and a training to compare with."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clpds.recipe import Saving, Train
from tests.cluster.cluster import Cluster, running_cluster, why_not
from tests.ranks import run_ranks
from tests.training.stages import run_stage, stage, write_inputs


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="session")
def task(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """A stage done by two ranks without Slurm and without a break; long enough to be stopped in the middle."""
    folder = tmp_path_factory.mktemp("local")
    inputs = write_inputs(folder, shape="gpt2")  # GPT-2 has dropout
    task = stage(inputs, folder / "run", steps=80, saving=Saving(every=5))
    run_ranks(2, run_stage, task)
    return task


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a user who has installed clpds into .venv."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path
