"""Put the running job back into the queue from inside its batch script, away from nodes that failed."""

import signal
from collections.abc import Sequence

from clpds.errors import UserError
from launcher.hostlist import expand
from launcher.slurm import command


def requeue(job: str, exclude: Sequence[str] = ()) -> None:
    """Requeue job ``job``; it will not run on the nodes ``exclude`` nor on those that it excluded before.

    ``exclude`` holds Slurm's names of nodes. Slurm answers a requeue with SIGTERM to the whole batch script, takes a
    change of the list of nodes only once the job is pending, and kills what is left when the script itself has ended.
    So this process ignores SIGTERM from here on and must be the script (``exec clpds ...``), or the script must ignore
    SIGTERM as well (``trap '' TERM``); then there is Slurm's KillWait, 30 s unless the site says otherwise. The caller
    should end soon. Slurm starts a requeued job after two minutes at the earliest, so the nodes are excluded in time;
    and where the second command fails, the job is requeued with all its nodes rather than held for ever.

    Returns once Slurm has said yes. Raises UserError where it refuses, and, before anything is done, where too few
    nodes would be left: Slurm would let such a job wait for ever.
    """
    excluded = _excluded(job, exclude) if exclude else []
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the commands inherit it
    command("scontrol", "requeue", job)
    if excluded:
        try:
            command("scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(excluded)}")
        except UserError as error:
            raise UserError(f"job {job} is back in the queue, but not without {', '.join(exclude)}: {error}") from error


def _excluded(job: str, exclude: Sequence[str]) -> list[str]:
    """All nodes that the job must avoid: an update replaces the list that it has."""
    partition, count, before = command("squeue", "--noheader", f"--job={job}", "--format=%P|%D|%x").split("|")
    excluded = list(dict.fromkeys([*(expand(before) if before not in ("", "(null)") else []), *exclude]))
    nodes = command("sinfo", "--noheader", "--Node", f"--partition={partition}", "--format=%N").split()
    left = len(set(nodes) - set(excluded))
    if left < int(count):
        raise UserError(
            f"job {job} needs {count} nodes, and without {', '.join(excluded)} partition {partition} has {left}: "
            "not requeued"
        )
    return excluded
