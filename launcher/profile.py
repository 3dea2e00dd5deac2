"""A cluster in one small YAML file: what differs between sites, and nothing else."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from clpds.errors import UserError
from clpds.recipe import Count, NotNegative, checked, read_yaml
from clpds.resources import find

Word = Annotated[str, Field(pattern=r"^[^\s\"'`$\\]+$")]
"""Goes into a line of the batch script as it is: one word."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Line = Annotated[str, Field(pattern=r"^[^\n]+$")]
Time = Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$", coerce_numbers_to_str=True)]
"""As Slurm writes it: minutes, hours:minutes:seconds, days-hours:minutes:seconds."""


class _Checked:
    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Jobs(_Checked):
    """What jobs of one kind ask for."""

    partition: Word | None = None
    """Slurm's default unless told."""
    qos: Word | None = None
    time: Time = "24:00:00"
    """Time limit."""
    nodes: Count = 1
    """Nodes of a training job; all others take one."""
    gpus_per_node: NotNegative = 0
    """Asked for with --gpus-per-node; a training job gets a task for each."""
    gres: Word | None = None
    """Asks for the GPUs of a node in this form instead, for instance gpu:mi250:8."""
    tasks_per_node: Count | None = None
    """Ranks of a node; one for each GPU, or one, unless told."""
    cpus_per_task: Count = 1
    memory: Word | None = None
    """Of a node, for instance 200G; the partition's default unless told."""
    sbatch: tuple[Line, ...] = ()
    """Further options of sbatch, for instance --exclusive."""

    @property
    def ranks_per_node(self) -> int:
        """Tasks of a training job on a node."""
        return self.tasks_per_node or self.gpus_per_node or 1


@dataclass(frozen=True, kw_only=True)
class Profile(_Checked):
    """A cluster."""

    train: Jobs
    """Training stages, and with one task evaluations."""
    cpu: Jobs
    """All other steps: no GPU."""
    gpu: str | None = None
    """Name of the GPU, for `clpds plan`."""
    account: Word | None = None
    setup: str = ""
    """Lines of shell that every job starts with: modules, the virtual environment."""
    container: Line | None = None
    """Command in front of `clpds` where the software is in a container, for instance apptainer exec --nv clpds.sif."""
    scratch: str | None = None
    """Folder that all nodes see; jobs run there and a recipe's relative paths lie in it. $USER and ~ are expanded."""
    interface: Word | None = None
    """Network interface for NCCL and gloo; theirs to choose unless told."""
    environment: dict[Name, Annotated[str, Field(coerce_numbers_to_str=True)]] = field(default_factory=dict)
    """Variables to export in every job."""
    signal_lead: Count = 300
    """Seconds before the time limit at which training saves and goes back into the queue: three saves or more."""
    requeue_limit: NotNegative = 50
    """How often a training job may go back into the queue."""
    preflight: bool = True
    """Check nodes, network and the shared folder before training, under a minute."""
    exclude_bad_nodes: bool = False
    """Whether a node that fails the preflight is left out when the job goes back into the queue."""
    array: Count = 1
    """Jobs among which `clpds data` shares the tokenising."""


def load_profile(path: Path) -> Profile:
    """Read a profile (a path, or the name of one of recipes/clusters/); UserError names the file and the key."""
    path = find("recipes/clusters", path)
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping with 'train', 'cpu' and what else a profile says")
    try:
        profile: Profile = checked(Profile, values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return profile


def working_folder(profile: Profile, path: Path) -> Path:
    """Where jobs run: the scratch folder of the profile read from ``path``, or here. UserError where it is none."""
    if profile.scratch is None:
        return Path.cwd()
    folder = Path(os.path.expandvars(profile.scratch)).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"{path}: scratch is {folder}, which is no folder; make it first")
    return folder
