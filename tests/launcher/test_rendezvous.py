"""From the environments that launchers leave to the five variables; and a real mpirun against real ranks."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from clpds.errors import UserError
from clpds.run_folder import read_state, write_state
from launcher.rendezvous import NAMES, export_rank, free_port
from tests.ranks import run_ranks
from tests.training.stages import curve, read_metrics, run_stage, stage, write_inputs

ROOT = Path(__file__).parents[2]
MPIRUN = ["mpirun", "-n", "2", "--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
needs_mpirun = pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun: Open MPI is not installed")

FIVE = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "29500"}
TORCHRUN = {**FIVE, "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "GROUP_RANK": "0"}
STEP = {
    "SLURM_JOB_ID": "41234",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "localhost,node[001-003]",
    "SLURM_JOB_NODELIST": "gone[1-9]",
}
BATCH = {"SLURM_JOB_ID": "41234", "SLURM_PROCID": "0", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n1"}
OMPI = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}


def exported(environment: dict[str, str], **changes: str) -> list[str]:
    """The five variables in an environment of just these variables, on a machine without mpi4py."""
    without_mpi = patch.dict(sys.modules, {"mpi4py": None})  # MPI must not start in the tests' own process
    with without_mpi, patch.dict(os.environ, {**environment, **changes}, clear=True):
        export_rank()
        return [os.environ[name] for name in NAMES.values()]


def refused(environment: dict[str, str], **changes: str) -> str:
    with pytest.raises(UserError) as caught:
        exported(environment, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(environment: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def test_without_a_launcher_one_process() -> None:
    *rank, port = exported({})
    assert rank == ["0", "1", "0", "127.0.0.1"]
    assert 20_000 <= int(port) < 32_768


@pytest.mark.parametrize(
    "outer",
    [
        {},
        {**STEP, "SLURM_NTASKS": "4", "SLURM_PROCID": "1"},  # a wrapper that says what srun says
        {**STEP, "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},  # srun -n 2, each task two ranks
        {**STEP, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},  # in an interactive shell
        {**BATCH, "SLURM_NTASKS": "4"},  # clpds run --ranks 4 in a batch script
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
    ],
)
def test_what_a_launcher_has_set_stays(outer: dict[str, str]) -> None:
    assert exported({**FIVE, **outer}) == list(FIVE.values())


def test_a_torchrun_on_each_node_is_no_contradiction() -> None:
    for task in ("0", "1"):  # torchrun numbers nodes as they arrive, not as Slurm does
        assert exported({**TORCHRUN, **STEP}, SLURM_NTASKS="2", SLURM_PROCID=task) == list(FIVE.values())


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({**FIVE, "RANK": "4"}, ["RANK=4", "WORLD_SIZE=4"]),
        ({**FIVE, "RANK": "-1"}, ["RANK=-1", "WORLD_SIZE=4"]),
        ({**FIVE, "RANK": "one"}, ["RANK=one"]),
        (without(FIVE, "LOCAL_RANK"), ["RANK=1", "LOCAL_RANK"]),
        (without(FIVE, "MASTER_ADDR", "MASTER_PORT"), ["RANK=1", "MASTER_ADDR", "MASTER_PORT"]),
        ({"WORLD_SIZE": "4", **STEP}, ["WORLD_SIZE=4", "RANK"]),
        ({"MASTER_ADDR": "h"}, ["MASTER_ADDR=h", "RANK"]),
        ({**FIVE, **STEP, "SLURM_NTASKS": "3", "SLURM_PROCID": "0"}, ["WORLD_SIZE=4", "SLURM_NTASKS=3"]),
        ({**FIVE, **STEP}, ["WORLD_SIZE=4", "SLURM_NTASKS=8"]),
        ({**FIVE, **STEP, "SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, ["RANK=1", "SLURM_PROCID=2"]),
        (
            {**TORCHRUN, **STEP, "GROUP_WORLD_SIZE": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
            ["WORLD_SIZE=4", "GROUP_WORLD_SIZE=1", "SLURM_NTASKS=2"],
        ),
        ({**FIVE, **OMPI, "OMPI_COMM_WORLD_RANK": "1"}, ["RANK=1", "OMPI_COMM_WORLD_RANK=1"]),
        ({**STEP, "SLURM_PROCID": "8"}, ["SLURM_PROCID=8", "SLURM_NTASKS=8"]),
        ({**STEP, "PMI_RANK": "5", "PMI_SIZE": "4"}, ["PMI_SIZE=4", "SLURM_NTASKS=8"]),
        ({**STEP, **OMPI}, ["OMPI_COMM_WORLD_SIZE=2", "SLURM_NTASKS=8"]),
        (
            {**STEP, **OMPI, "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NUM_NODES": "1"},
            ["OMPI_COMM_WORLD_RANK=0", "SLURM_PROCID=1"],
        ),
        ({**STEP, **OMPI, "SLURM_STEP_NUM_NODES": "8"}, ["OMPI_COMM_WORLD_SIZE=2", "SLURM_NTASKS=8"]),
        (without(STEP, "SLURM_LOCALID"), ["SLURM_LOCALID"]),
        ({**BATCH, "SLURM_NTASKS": "8"}, ["SLURM_NTASKS=8", "srun"]),
        ({**BATCH, "SLURM_NTASKS": "8", "SLURM_STEP_ID": str(0xFFFFFFFB)}, ["SLURM_NTASKS=8", "srun"]),
        ({**BATCH, "SLURM_JOB_NUM_NODES": "2"}, ["SLURM_JOB_NUM_NODES=2", "srun"]),
        ({**STEP, "SLURM_STEP_NODELIST": "no.such.host.invalid,b"}, ["SLURM_STEP_NODELIST=no.such", "MASTER_ADDR"]),
        ({**STEP, "SLURM_STEP_NODELIST": "n[1-"}, ["n[1-"]),
    ],
)
def test_a_contradiction_names_what_contradicts(variables: dict[str, str], named: list[str]) -> None:
    message = refused(variables)
    for name in named:
        assert name in message


def test_srun() -> None:
    assert exported(STEP) == ["5", "8", "1", "localhost", "22930"]
    assert exported(STEP, PMI_RANK="5", PMI_SIZE="8") == exported(STEP)  # srun --mpi=pmi2
    assert exported(without(STEP, "SLURM_STEP_NODELIST"), SLURM_JOB_NODELIST="localhost,b")[3] == "localhost"


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        (OMPI, "OMPI_COMM_WORLD_RANK=0"),
        ({**STEP, **OMPI, "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, "OMPI_COMM_WORLD_RANK=0"),  # a daemon on each node
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "PMI_RANK=1"),
        (
            {
                **STEP,
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": "1",
                "PMI_RANK": "1",
                "PMI_SIZE": "2",
                "MPI_LOCALRANKID": "0",
            },
            "PMI_RANK=1",
        ),
    ],
)
def test_mpi_is_asked_rather_than_what_started_it(variables: dict[str, str], rank: str) -> None:
    assert f"{rank} says mpirun, but mpi4py does not load" in refused(variables)


def test_one_host_needs_no_name() -> None:
    assert exported(STEP, SLURM_STEP_NODELIST="node[007]")[3] == "127.0.0.1"


def test_an_address_of_the_users_own_is_kept_with_srun() -> None:
    assert exported(STEP, MASTER_ADDR="ib-1", MASTER_PORT="4711")[3:] == ["ib-1", "4711"]


def test_a_batch_script_of_one_task_is_one_process() -> None:
    assert exported(BATCH, SLURM_NTASKS="1")[:4] == ["0", "1", "0", "127.0.0.1"]


def test_steps_and_neighbouring_jobs_have_ports_of_their_own() -> None:
    jobs, steps = range(99_990, 100_010), range(10)
    cases = itertools.product(jobs, steps)
    ports = [exported(STEP, SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step))[4] for job, step in cases]
    assert len(set(ports)) == len(jobs) * len(steps)
    assert all(20_000 <= int(port) < 32_768 for port in ports)  # beyond are those of outgoing connections
    assert exported(STEP, SLURM_JOB_ID="12769")[4] == "20001"


def test_a_port_that_is_taken_is_one_line_and_noted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_state(run, "starting")
    (tmp_path / "recipe.yaml").write_text(
        "steps: {train: {verb: train, model: m, data: {de: {path: d}}, steps: 4, micro_batch: 2, global_batch: 4, "
        f"out: {run}}}}}"
    )
    with socket.create_server(("127.0.0.1", free_port())) as server:
        port = str(server.getsockname()[1])
        five = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-m", "clpds", "train", str(tmp_path / "recipe.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, env=bare(**five))
    assert done.returncode == 2
    assert done.stderr.startswith(f"clpds train: error: MASTER_ADDR=127.0.0.1, MASTER_PORT={port}: the port is taken")
    assert done.stderr.count("\n") == 1
    state = read_state(run)
    assert state is not None
    assert state.state == "failed"


def test_nothing_about_the_network_is_set() -> None:
    with patch.dict(os.environ, STEP, clear=True):
        export_rank()
        assert {name for name in os.environ if not name.startswith("SLURM_")} == set(NAMES.values())


def test_the_launcher_imports_nothing_heavy() -> None:
    code = "import sys, launcher.rendezvous, launcher.local; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "numpy", "mpi4py", "deepspeed"} & set(done.stdout.split())


def bare(**variables: str) -> dict[str, str]:
    """This process's environment without what a launcher may have left in it."""
    launchers = ("SLURM_", "OMPI_", "PMI", "MPI_", *NAMES.values(), "GROUP_", "CROSS_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(launchers)}, **variables}


def python(code: str, *, under: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*under, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=100,
        env=bare(**variables),
    )


SAY = """
import os, sys
from clpds.errors import UserError
from launcher.rendezvous import NAMES, export_rank
try:
    export_rank()
    sys.stdout.write(" ".join(os.environ[name] for name in NAMES.values()) + chr(10))
except UserError as error:
    sys.exit(str(error))
"""


@needs_mpirun
def test_ranks_of_mpirun_meet() -> None:
    done = python(SAY, under=MPIRUN)
    assert done.returncode == 0, done.stderr
    first, second = (line.split() for line in sorted(done.stdout.splitlines()))
    assert first[:4] == ["0", "2", "0", "127.0.0.1"]
    assert second[:3] == ["1", "2", "1"]
    assert first[3:] == second[3:]
    chosen = python(SAY, under=MPIRUN, MASTER_ADDR="ib-1", MASTER_PORT="4711")
    assert sorted(chosen.stdout.splitlines()) == ["0 2 0 ib-1 4711", "1 2 1 ib-1 4711"]
    assert "is not a number" in python(SAY, under=MPIRUN, MASTER_PORT="x").stderr


@needs_mpirun
def test_mpirun_of_another_mpi_is_named() -> None:
    done = python(SAY, under=[], PMI_RANK="1", PMI_SIZE="2", MPI_LOCALRANKID="1")  # to Open MPI this is a lone process
    assert "PMI_RANK=1, PMI_SIZE=2, but to mpi4py this is rank 0 of 1" in done.stderr


@needs_mpirun
def test_a_rank_that_fails_takes_the_others_of_mpirun_down() -> None:
    since = time.monotonic()
    code = "import os, time; time.sleep(300 * (os.environ['RANK'] == '0')); raise SystemExit(3)"
    done = python(SAY + code, under=MPIRUN)
    assert done.returncode == 3
    assert time.monotonic() - since < 60


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param([*MPIRUN, sys.executable, "-m"], id="mpirun", marks=needs_mpirun),
        pytest.param([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m"], id="torchrun"),
    ],
)
def test_every_launcher_trains_alike(launcher: list[str], tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    expected = run_ranks(2, run_stage, stage(inputs, tmp_path / "ranks", steps=4))[0]
    (tmp_path / "recipe.yaml").write_text(f"""
steps:
  train:
    verb: train
    model: {inputs["model"]}
    data: {{german: {{path: {inputs["data"]}}}}}
    steps: 4
    micro_batch: 2
    global_batch: 8
    deepspeed: {inputs["deepspeed"]}
    optimizer: {{lr: 2.0e-3, weight_decay: 0.1, clip: 0.5}}
    schedule: {{kind: cosine, warmup_steps: 2}}
    seed: 3
    out: {tmp_path / "launched"}
""")
    done = subprocess.run(
        [*launcher, "clpds", "train", str(tmp_path / "recipe.yaml")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=200,
        env=bare(),
    )
    assert done.returncode == 0, done.stderr
    lines = read_metrics(tmp_path / "launched")
    assert curve(lines) == curve(expected)
    assert curve(lines, "grad_norm") == curve(expected, "grad_norm")
    assert len(lines) == 4
