"""What a job of Slurm is called and may run for; the shell that starts its ranks."""

import os
import subprocess
from pathlib import Path

import pytest

from launcher.slurm import own_job
from launcher.time_limit import seconds

ROOT = Path(__file__).parents[2]


def test_a_task_of_an_array_is_not_the_array(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert own_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert own_job() == "7"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert own_job() == "7_2"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("4", 240), ("4:30", 270), ("1:02:03", 3723), ("2-1", 176400), ("2-1:02", 176520), ("1-00:00:01", 86401),
        ("UNLIMITED", None), ("0", None), ("", None), ("Partition_Limit", None),
    ],
)  # fmt: skip
def test_limits_as_slurm_writes_them(limit: str, expected: int | None) -> None:
    assert seconds(limit) == expected


@pytest.mark.parametrize("given", [None, "3"])
def test_a_job_without_cpus_per_task_starts(given: str | None) -> None:
    """The line of both scripts, by a shell that takes no unset variable; srun refuses an empty number."""
    for script in ("train.sbatch", "job.sbatch.jinja"):
        text = (ROOT / "slurm" / script).read_text()
        lines = [line for line in text.splitlines() if "SLURM_CPUS_PER_TASK" in line]
        shell = "\n".join(["set -eu", *lines, 'echo "${SRUN_CPUS_PER_TASK-unset}"'])
        environment = {name: value for name, value in os.environ.items() if "CPUS_PER_TASK" not in name}
        environment |= {"SLURM_CPUS_PER_TASK": given} if given else {}
        done = subprocess.run(["bash", "-c", shell], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"{given or 'unset'}\n"), done.stderr
