"""A real Slurm of two nodes on this machine: munged, slurmctld and two slurmd, with ports and folders of their own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.rendezvous import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")
# A node is called by its address because ranks look up the first node's name, and no name of ours resolves.
NODES = ("127.0.0.1", "127.0.0.2")
CPUS = 4  # a node pretends to have: jobs can share it
LIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED")


def why_not() -> str | None:
    """What this machine lacks for a cluster, and how to get it."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"a real Slurm needs {', '.join(missing)}: apt install slurm-wlm munge"
    return None if os.geteuid() == 0 else "a real Slurm needs root: run the tests as root, for instance in a container"


@dataclass(frozen=True)
class Cluster:
    """A running cluster; every path and process is under ``folder``."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Where Slurm's commands find the cluster. It also marks every process that belongs to it."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: str, cwd: Path | None = None) -> str:
        """What a command of Slurm prints; RuntimeError with its complaint when it fails."""
        done = subprocess.run(words, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout.strip()

    def submit(self, *arguments: str, cwd: Path) -> str:
        """``sbatch`` with these arguments in the folder ``cwd``; the job's id."""
        return self.command("sbatch", "--parsable", *arguments, cwd=cwd)

    def show(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says."""
        fields = self.command("scontrol", "--oneliner", "show", "job", job).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def log(self, job: str) -> str:
        """What the job has printed."""
        path = Path(self.show(job)["StdOut"])
        return path.read_text() if path.exists() else ""

    def hurry(self, job: str) -> None:
        """Let a requeued job start now: Slurm keeps it waiting for two minutes, in which its old processes end."""
        while self.show(job)["JobState"] != "PENDING" or any(
            _variables(pid).get("SLURM_JOB_ID") == job for pid in _processes(self)
        ):
            time.sleep(0.1)
        time.sleep(2)  # a start in the second of the requeue is refused: "Job credential revoked"
        self.command("scontrol", "update", f"JobId={job}", "StartTime=now")

    def ranks(self, job: str) -> list[int]:
        """Process ids of the job's training ranks, in their order."""
        found = {}
        for pid in _processes(self):
            variables = _variables(pid)
            if variables.get("SLURM_JOB_ID") == job and _words(pid)[2:3] == ["train"]:  # python clpds train
                found[int(variables["SLURM_PROCID"])] = pid
        return [found[rank] for rank in sorted(found)]

    def signal(self, pids: Iterable[int], number: int) -> None:
        """Send a signal to processes."""
        for pid in pids:
            os.kill(pid, number)

    def fail(self, node: str) -> None:
        """Let a node die: its slurmd, its slurmstepds (which outlive it) and all tasks."""
        tasks = [pid for pid in _processes(self) if _variables(pid).get("SLURMD_NODENAME") == node]
        stepds = {_parent(pid) for pid in tasks} - set(tasks)
        daemons = [pid for pid in _processes(self) if _words(pid)[:1] == ["slurmd"] and node in _words(pid)]
        for pid in [*daemons, *stepds, *tasks]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd; it ends with the cluster."""
        with (self.folder / f"{node}.out").open("a") as out:
            subprocess.Popen(["slurmd", "-D", "-N", node], env=self.environment, stdout=out, stderr=out)

    def wait(self, job: str, reached: Callable[[], bool] = lambda: False, timeout: float = 120) -> str:
        """The job's state when it has ended, such as COMPLETED or FAILED, or when ``reached()``.

        After ``timeout`` seconds the job is cancelled; RuntimeError with its log.
        """
        deadline = time.monotonic() + timeout
        while (state := self.show(job)["JobState"]) in LIVE and not reached():
            if time.monotonic() > deadline:
                self.command("scancel", job)
                raise RuntimeError(f"job {job} is {state} after {timeout} s:\n{self.log(job)}")
            time.sleep(0.1)
        return state


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Start a cluster whose nodes are idle; at the end no process of it is left."""
    cluster = Cluster(folder)
    _configure(folder)
    try:
        _start(cluster)
        yield cluster
    finally:
        _end(cluster)


def _configure(folder: Path) -> None:
    key = folder / "munge.key-file"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    host = socket.gethostname().partition(".")[0]
    lines = [
        "ClusterName=clpds",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={free_port()}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge.socket",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/%n",
        f"TmpFS={folder}/%n",  # nodes of their own: PMIx puts files there that are named by the step only
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/%n.pid",
        f"SlurmdLogFile={folder}/%n.log",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SlurmdParameters=config_overrides",
        "SlurmdTimeout=10",  # a node that does not answer is down after so many seconds
        "KillWait=10",
        "ReturnToService=2",
        "SchedulerParameters=sched_interval=5",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        *(f"NodeName={node} NodeHostname={host} NodeAddr={node} Port={free_port()} CPUs={CPUS}" for node in NODES),
        "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
    ]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    (folder / "state").mkdir()
    for node in NODES:
        (folder / node).mkdir()


def _start(cluster: Cluster) -> None:
    def daemon(*words: str) -> None:
        with (cluster.folder / f"{words[0]}.out").open("a") as out:
            subprocess.Popen(words, env=cluster.environment, stdout=out, stderr=out)

    munge = cluster.folder / "munge"
    options = [f"--{name}={munge}.{name}" for name in ("key-file", "seed-file", "pid-file", "log-file", "socket")]
    daemon("munged", "--foreground", "--force", *options)  # force: only root may enter the socket's folder
    _until_up(cluster, Path(f"{munge}.socket").exists)
    daemon("slurmctld", "-D")
    for node in NODES:
        cluster.start_node(node)
    _until_up(cluster, lambda: _states(cluster) == ["idle"] * len(NODES))


def _states(cluster: Cluster) -> list[str]:
    try:
        return cluster.command("sinfo", "--noheader", "--Node", "--format=%T").split()
    except RuntimeError:  # slurmctld does not answer yet
        return []


def _until_up(cluster: Cluster, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        if time.monotonic() > deadline:
            said = "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(cluster.folder.glob("*.out")))
            raise RuntimeError(f"Slurm did not start\n{said}")
        time.sleep(0.1)


def _end(cluster: Cluster) -> None:
    """Kill what bears the cluster's mark: daemons, and steps and ranks, which outlive their slurmd."""
    deadline = time.monotonic() + 30
    while left := list(_processes(cluster)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes of the Slurm in {cluster.folder} do not end: {left}")
        for pid in left:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _processes(cluster: Cluster) -> Iterator[int]:
    mark = str(cluster.folder / "slurm.conf")
    for path in Path("/proc").glob("[0-9]*"):
        if _variables(int(path.name)).get("SLURM_CONF") == mark and _words(int(path.name)):  # a zombie has no words
            yield int(path.name)


def _variables(pid: int) -> dict[str, str]:
    """A process's environment as it began; empty once it has ended."""
    entries = (entry.partition("=") for entry in _read(pid, "environ"))
    return {name: value for name, _, value in entries}


def _words(pid: int) -> list[str]:
    return _read(pid, "cmdline")


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _read(pid: int, what: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []
