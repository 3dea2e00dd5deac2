"""``clpds supervise``: one training stage as a Slurm job. What the batch script becomes.

It starts the ranks with srun, passes Slurm's warning on to them as a stop file, and when they are gone decides by
what they left in the run's folder: an exit status does not survive ``srun --kill-on-bad-exit``.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from clpds.cli import Supervise
from clpds.errors import UserError
from clpds.recipe import load_stage
from clpds.run_folder import BAD_NODES, STATE, ask_to_stop, read_state, saved_step, take_stop, write_state
from launcher.owner import own, read_owner, taking
from launcher.requeue import requeue
from launcher.slurm import own_job
from launcher.time_limit import of_job, require_time

CRASHES = "crashes.jsonl"


def supervise(options: Supervise) -> None:
    """Train until finished or stopped; after a signal, or a crash with progress since the last one, requeue the job.

    Leaves with status 0 when the stage is finished or the job is back in the queue, else with another: jobs that wait
    for this one with afterok must not start on half a training. Raises UserError outside of a Slurm job, and where
    Slurm would warn this one before it has trained.
    """
    name, stage = load_stage(options.recipe, options.overrides, options.step)
    job = own_job()
    if job is None:
        raise UserError("no Slurm job: submit a script that calls this, or start the ranks with clpds run or torchrun")
    with taking(stage.out, job) as file:
        own(file, job, _submission(stage.out, job))
    take_stop(stage.out)  # a wish from before
    signal.signal(signal.SIGUSR1, lambda number, frame: ask_to_stop(stage.out, requeue=True))
    write_state(stage.out, "starting", step=saved_step(stage.out))
    if options.signal_lead is not None:
        _require_time(stage.out, options.signal_lead, job)
    if options.preflight and _srun(options, ["preflight", "--folder", str(stage.out)], "--time=3"):
        sys.exit(_after_bad_preflight(stage.out, options, job))
    status = _srun(options, ["train", str(options.recipe), *options.overrides, "--step", name], "--kill-on-bad-exit=1")
    sys.exit(_after_training(stage.out, options, job, status))


def _require_time(run: Path, lead: int, job: str) -> None:
    """Raises UserError, noted in the run, where the job's time limit leaves none for training."""
    try:
        require_time(f"job {job}", of_job(job), lead)
    except UserError as error:
        write_state(run, "failed", step=saved_step(run), reason=str(error))
        raise


def _srun(options: Supervise, words: list[str], *flags: str) -> int:
    container = shlex.split(options.container or "")
    return subprocess.call(["srun", *flags, *container, "clpds", *words])


def _after_training(run: Path, options: Supervise, job: str, status: int) -> int:
    """What this process leaves with, once the job is requeued where it shall be."""
    left = read_state(run)
    if left is None:
        raise UserError(f"{run / STATE} is gone; was the folder removed while the job ran?")
    if left.state == "finished":
        return 0
    if left.state == "stopped":
        _say(f"{run} was asked to stop by a file; submit again to go on")
        return 130  # as clpds run
    if left.state == "failed":
        return 2  # rank 0 has said why
    if left.state == "interrupted":
        return _requeue(run, options, job)
    step, before = saved_step(run), _last_crash(run, job)
    _say(f"{run}: the ranks died (srun returned {status}); step {step} is saved")
    if before is not None and before >= step:
        _say(f"{run}: not requeued, for they died with step {before} saved before; what they said is above")
        write_state(run, "failed", step=step, reason=f"the ranks died twice with step {step} saved; see the job's log")
        return 1
    with (run / CRASHES).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"job": job, "step": step, "status": status}) + "\n")
    return _requeue(run, options, job)


def _after_bad_preflight(run: Path, options: Supervise, job: str) -> int:
    file = run / BAD_NODES
    nodes = file.read_text(encoding="utf-8").split() if file.is_file() else []
    write_state(run, "failed", step=saved_step(run), reason=f"preflight: {', '.join(nodes) or 'see the job log'}")
    if nodes and options.exclude_bad_nodes:
        return _requeue(run, options, job, exclude=nodes)
    return 1


def _requeue(run: Path, options: Supervise, job: str, exclude: Sequence[str] = ()) -> int:
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if restarts >= options.requeue_limit:
        _say(f"{run}: not requeued, for the job has been {restarts} times; submit again to go on")
        return 1
    without = f", without {', '.join(exclude)}" if exclude else ""
    step = saved_step(run)
    requeue(job, exclude)
    _say(f"{run}: back into the queue from step {step}{without}")
    return 0


def _last_crash(run: Path, job: str) -> int | None:
    """The step that was saved when the ranks of this job died last."""
    if not (run / CRASHES).is_file():
        return None
    lines = [json.loads(line) for line in (run / CRASHES).read_text(encoding="utf-8").splitlines()]
    return next((int(line["step"]) for line in reversed(lines) if line["job"] == job), None)


def _submission(run: Path, job: str) -> Path | None:
    """The folder of scripts that this job came from, where `clpds submit` wrote one."""
    owner = read_owner(run)
    return Path(owner["submission"]) if owner.get("job") == job and owner.get("submission") else None


def _say(text: str) -> None:
    sys.stderr.write(f"clpds supervise: {text}\n")
