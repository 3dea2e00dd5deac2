"""A disk that is full, failing or read-only under a training: all ranks say one thing, and nothing saved is lost."""

import errno
import os
from pathlib import Path

import pytest

from clpds.manifest import check_manifest
from clpds.recipe import Saving, Train
from tests.conftest import Mount
from tests.ranks import run_ranks
from tests.training.stages import read_metrics, refused, run_stage, stage, write_inputs


def refused_by_fsync(task: Train) -> str:
    """The message where the second file of rank 1 cannot be kept; raised in the place of a failing device."""
    calls = iter(range(10**6))

    def fail(descriptor: int) -> None:
        if os.environ["RANK"] == "1" and next(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    os.fsync = fail
    return refused(task)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_save_that_fails_costs_nothing_that_was_saved(
    asynchronous: bool, tmp_path: Path, disk: tuple[Path, Mount]
) -> None:
    path, mount = disk
    saving = Saving(every=2, keep_last=1, asynchronous=asynchronous)
    task = stage(write_inputs(tmp_path, shape="gpt2"), path / "run", saving=saving)
    saved = task.out / "checkpoints"

    mount("size=1100k")  # for a checkpoint and a half
    messages = run_ranks(2, refused, task)
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{saved}/step-00000004 cannot be saved ({saved}/step-00000004.clpds-partial/")
    assert "No space left on device" in messages[0]
    assert names(saved) == ["latest", "step-00000002"]

    mount("size=50%")
    messages = run_ranks(2, refused_by_fsync, task)
    assert messages[0] == messages[1]
    assert "step-00000004.clpds-partial/zero_pp_rank_1" in messages[0]
    assert "Input/output error (rank 1 only)" in messages[0]
    assert names(saved) == ["latest", "step-00000002"]
    assert check_manifest(saved / "step-00000002", deep=True) == []

    mount("ro")
    assert run_ranks(1, refused, task) == [f"{task.out}/lock: Read-only file system"]
    mount("rw")
    run_ranks(2, run_stage, task)
    assert [line["step"] for line in read_metrics(task.out)] == list(range(1, 9))
    assert names(saved) == ["latest", "step-00000008"]
