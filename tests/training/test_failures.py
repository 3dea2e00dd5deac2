"""An error of one rank that the user can mend: said once, and noted for the job's supervisor."""

import errno
import io
from contextlib import redirect_stderr
from pathlib import Path

import torch.distributed as dist

from clpds.recipe import Train
from clpds.run_folder import read_state, write_state
from clpds.training import entry, loop
from clpds.training.stopping import StopFlag
from tests.ranks import run_ranks
from tests.training.stages import stage


def fail(task: Train) -> tuple[str, str]:
    """What a rank says when a disk fills up for rank 1 while rank 0 waits for it, and how it ends."""

    def train(stage: Train, *arguments: object) -> None:
        if dist.get_rank() == 1:
            raise OSError(errno.ENOSPC, "No space left on device", "a.bin")
        dist.barrier()

    loop.train = train  # type: ignore[assignment]  # a disk that fills up for one rank alone cannot be had
    said = io.StringIO()
    end = ""
    with redirect_stderr(said):
        try:
            entry._train(task, StopFlag())
        except BaseException as error:
            end = type(error).__name__
    return said.getvalue(), end


def test_a_rank_that_fails_alone_says_so_before_it_leaves(tmp_path: Path) -> None:
    inputs = {"model": tmp_path, "data": tmp_path, "deepspeed": tmp_path}
    task = stage(inputs, tmp_path / "run")
    task.out.mkdir()
    write_state(task.out, "training")
    (_, first), (said, second) = run_ranks(2, fail, task)
    assert said == "clpds train: error: rank 1: a.bin: No space left on device\n"
    assert second == "SystemExit"
    assert first == "RuntimeError"  # rank 1 is gone
    state = read_state(task.out)
    assert state is not None
    assert (state.state, state.reason) == ("failed", "rank 1: a.bin: No space left on device")
