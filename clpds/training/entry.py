"""``clpds train``: what every rank runs, whichever launcher started it."""

import os
import sys
import time

from clpds.cli import TrainStep, quick_imports
from clpds.ending import mendable
from clpds.errors import UserError, complain
from clpds.folders.claim import InUseError
from clpds.folders.ours import is_run
from clpds.recipe import Train, load_stage
from clpds.run_folder import read_state, saved_step, take_stop, write_state
from clpds.training.stopping import StopFlag, stop_flag
from launcher.local import end_with_launcher
from launcher.rendezvous import export_rank

FIRST = 3.0  # seconds that rank 0 has to say what went wrong, where it went wrong on all ranks


def train_step(options: TrainStep) -> None:
    """Run the recipe's training stage on this rank; only rank 0 prints."""
    _, stage = load_stage(options.recipe, options.overrides, options.step)
    status = 0
    end_with_launcher()
    try:
        with stop_flag() as flag:  # before the heavy imports: a signal that comes early is kept
            export_rank()
            _train(stage, flag)
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    except Exception as error:
        if (theirs := mendable(error)) is None:
            raise
        complain("train", theirs)
        if not isinstance(error, InUseError):
            _note_failure(stage, str(theirs))
        status = 2
    # All is written and the group is gone. The interpreter's own end can still abort the process, seen once on a
    # busy machine (a thread of gloo's: "terminate called without an active exception"), and a finished job would
    # count as failed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _train(stage: Train, flag: StopFlag) -> None:
    with quick_imports():
        import torch.distributed as dist

        from clpds.training.group import first_rank, process_group
        from clpds.training.loop import train

    with process_group() as device:
        try:
            position = train(stage, device, flag)
        except UserError:
            dist.barrier()  # all ranks have the same error; none leaves while another still talks to it
            if first_rank():
                raise
            sys.exit(2)
        except Exception as error:  # of this rank's own: a disk, memory
            if not first_rank() and (theirs := mendable(error)) is not None:
                _note_own_failure(stage, theirs, dist.get_rank())
                sys.exit(2)
            raise
        if first_rank():
            done, wish = position.step >= stage.steps, take_stop(stage.out)
            write_state(stage.out, "finished" if done else "stopped" if wish else "interrupted", step=position.step)
            sys.stderr.write(
                f"{stage.out}: {'finished' if done else 'stopped'} at step {position.step} of {stage.steps}"
                + ("\n" if done else "; the same command goes on from here\n")
            )


def _note_failure(stage: Train, reason: str) -> None:
    """Leave word in the folder, where it is a run's: srun, ending the other ranks, changes the exit status."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0" and is_run(stage.out):
        write_state(stage.out, "failed", step=saved_step(stage.out), reason=reason)


def _note_own_failure(stage: Train, error: UserError, rank: int) -> None:
    """Say and note what rank 0, still in the group and waiting for this rank, does not know of.

    The group must still be there: rank 0 dies when a rank leaves it, and the launcher then ends this process.
    """
    time.sleep(FIRST)
    left = read_state(stage.out)
    if left is not None and left.state != "failed":
        complain("train", UserError(f"rank {rank}: {error}"))
        write_state(stage.out, "failed", step=saved_step(stage.out), reason=f"rank {rank}: {error}")
