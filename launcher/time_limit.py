"""Time limits as Slurm writes them, and whether one leaves time to train before Slurm warns."""

from clpds.errors import UserError
from launcher.slurm import command

LATE = 60  # seconds: Slurm looks at time limits twice a minute, and may warn so much earlier than it was told


def seconds(limit: str) -> int | None:
    """A limit in seconds: ``minutes``, ``hours:minutes:seconds``, ``days-hours:minutes`` and so on; None: no limit."""
    days, dash, rest = limit.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        first = 24 * 60 * 60 * int(days) if dash else 0
    except ValueError:
        return None  # UNLIMITED, and what Slurm says of a job that it does not know
    if dash:
        hours, minutes, left = [*parts, 0, 0][:3]
    else:
        hours, minutes, left = {1: [0, *parts, 0], 2: [0, *parts]}.get(len(parts), parts)
    return (first + 60 * (60 * hours + minutes) + left) or None  # 0 is no limit


def of_job(job: str) -> str:
    """The limit of a job in the queue; empty where Slurm does not tell, which is no reason not to train."""
    try:
        return command("squeue", "--noheader", f"--jobs={job}", "--format=%l")
    except UserError:
        return ""


def require_time(whose: str, limit: str, lead: int) -> None:
    """Raises UserError where Slurm, ``lead`` seconds before the time limit, would warn as soon as the job starts.

    Such a job does a step or a few, saves and goes back into the queue, again and again.
    """
    total = seconds(limit)
    if total is not None and total <= lead + LATE:
        raise UserError(
            f"{whose}: the time limit {limit} is {total} s, and Slurm warns signal_lead = {lead} s before it, up to "
            f"{LATE} s early: no time is left to train; ask for more than {lead + LATE} s, or lower signal_lead to "
            "three times what a save takes"
        )
