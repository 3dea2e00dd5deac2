"""What one rank sees of its own machine."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

import psutil
import torch

from clpds.preflight.entry import node

PACKAGES = ("clpds", "torch", "deepspeed", "transformers")
SEEN_WITHIN = 15.0  # seconds in which a shared disk shows a new file on every node
IN_USE = 0.1  # of a device's memory: beyond it, somebody else computes there


@dataclass
class Report:
    """One rank's facts; sizes in bytes. ``problems`` are sentences that go on from the node's name."""

    rank: int
    node: str
    device: str = "?"
    """The device's name, or "cpu"."""
    device_id: str | None = None
    """What tells two devices of a node apart."""
    device_free: int | None = None
    memory_free: int = 0
    disk_free: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def introduce(rank: int) -> Report:
    """The facts that cannot fail."""
    versions = {"python": python_version()} | {name: _version(name) for name in PACKAGES}
    return Report(rank, node(), memory_free=psutil.virtual_memory().available, versions=versions)


def mark(folder: Path, token: str, rank: int) -> Path:
    """The file that a rank writes; the token is new each time, so no file of another job is taken for it."""
    return folder / f".preflight-{token}-{rank}"


def write_mark(report: Report, path: Path) -> None:
    """Write ``path`` in the shared folder as far as the disk, and see how much is free there."""
    with _problem(report, f"cannot write in {path.parent}"):
        with path.open("wb") as file:
            file.write(path.name.encode())
            file.flush()
            os.fsync(file.fileno())
        report.disk_free = shutil.disk_usage(path.parent).free


def read_mark(report: Report, path: Path) -> None:
    """Read what rank 0 wrote; a shared disk may take a while to show it."""
    until = time.monotonic() + SEEN_WITHIN
    with _problem(report, f"cannot read in {path.parent}"):
        while time.monotonic() < until:
            with suppress(FileNotFoundError):
                if path.read_bytes() == path.name.encode():
                    return
            time.sleep(0.1)
        report.problems.append(f"does not see what rank 0 wrote in {path.parent}: the folder is not shared")


def look_at_device(report: Report) -> None:
    """Is it there, is it idle, does it compute?"""
    with _problem(report, "has a device that does not work"):
        device = own_device()
        if device.type == "cpu":
            report.device = "cpu"
            if given := os.environ.get("SLURM_STEP_GPUS") or os.environ.get("SLURM_JOB_GPUS"):
                report.problems.append(f"was given GPU {given} by Slurm, but torch sees none")
            return
        facts = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        report.device, report.device_id, report.device_free = facts.name, str(facts.uuid), free
        if (used := 1 - free / total) > IN_USE:
            report.problems.append(f"has {used:.0%} of the memory of GPU {device.index} in use by another process")
        ones = torch.ones(1024, 1024, device=device)
        if not bool((ones @ ones == 1024).all()):
            report.problems.append(f"has a GPU {device.index} that computes wrongly")


def own_device() -> torch.device:
    """The device that training will give this rank."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


@contextmanager
def _problem(report: Report, what: str) -> Iterator[None]:
    """An error in the block becomes a problem of the report."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's errors of devices are RuntimeErrors
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        report.problems.append(f"{what}: {reason}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
