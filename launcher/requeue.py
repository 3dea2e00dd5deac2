"""Put a job back into the queue."""

from collections.abc import Sequence

from launcher.slurm import command


def requeue(job: str, exclude: Sequence[str] = ()) -> None:
    """Requeue the job this process is in, which ends it."""
    command("scontrol", "requeue", job)
