"""A job as the text of a batch script, by the template slurm/job.sbatch.jinja."""

import shlex
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from clpds.errors import UserError
from clpds.resources import find
from launcher.chain import Job
from launcher.profile import Profile


def render(job: Job, profile: Profile, *, recipe: Path, script: Path, folder: Path) -> str:
    """The script of ``job``, to be written to ``script``; the job runs in ``folder`` and logs beside its script.

    Raises UserError for a path with a line break: it would end the comment that Slurm reads it from.
    """
    for path in (recipe, script, folder):
        if not str(path).isprintable():
            raise UserError(f"{str(path)!r} has a line break or another control character; rename it")
    return _template().render(
        job=job,
        recipe=recipe,
        script=script,
        options=_options(job, profile, f"{recipe.stem}-{job.name}", script, folder),
        setup=profile.setup.strip(),
        environment=_interface(profile) | profile.environment,
    )


@cache
def _template() -> Template:
    file = find("slurm", Path("job.sbatch.jinja"))
    jinja = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    jinja.filters["quoted"] = shlex.quote
    return jinja.from_string(file.read_text(encoding="utf-8"))


def _options(job: Job, profile: Profile, title: str, script: Path, folder: Path) -> list[str]:
    asked = job.resources
    number = "%A_%a" if job.array else "%j"
    values = {
        "job-name": title,
        "account": profile.account,
        "partition": asked.partition,
        "qos": asked.qos,
        "nodes": asked.nodes if job.run else 1,
        "ntasks-per-node": asked.ranks_per_node if job.run else 1,
        "gpus-per-node": None if asked.gres else asked.gpus_per_node or None,
        "gres": asked.gres,
        "cpus-per-task": asked.cpus_per_task,
        "mem": asked.memory,
        "time": asked.time,
        "array": f"1-{job.array}" if job.array else None,
        "signal": f"B:USR1@{profile.signal_lead}" if job.run else None,
        "chdir": folder,
        "output": script.with_name(f"{job.name}-{number}.log"),
        "open-mode": "append",
    }
    options = [f"--{name}={shlex.quote(str(value))}" for name, value in values.items() if value is not None]
    return [*options, "--requeue", *asked.sbatch]


def _interface(profile: Profile) -> dict[str, str]:
    if profile.interface is None:
        return {}
    return {"NCCL_SOCKET_IFNAME": profile.interface, "GLOO_SOCKET_IFNAME": profile.interface}
