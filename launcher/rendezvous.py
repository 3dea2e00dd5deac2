"""From what the machine offers to RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT."""

import os
import random
import socket
from contextlib import suppress
from typing import Any, NamedTuple

from clpds.errors import UserError
from launcher.hostlist import expand

LOOPBACK = "127.0.0.1"
NORMAL_STEPS = 0xFFFFFFF0  # greater step ids are Slurm's own: batch script, interactive shell, extern
PORTS = range(20000, 32768)  # Linux gives the ports from 32768 to outgoing connections, which may be anybody's
STRIDE = 7919  # prime to len(PORTS): no two steps of a job share a port, nor do a few steps of neighbouring jobs


class Ranks(NamedTuple):
    """What a process must know to meet the others."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int


NAMES = dict(zip(Ranks._fields, ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), strict=True))


def export_rank() -> None:
    """Set the five variables in ``os.environ`` as the launcher nearest to this process means them.

    torchrun, ``deepspeed`` and ``clpds run --ranks`` set all five: they stay. mpirun says rank and size, and rank 0
    tells its address through mpi4py. srun says everything, the port follows from the job id. Without any of them this
    is one process. MASTER_ADDR and MASTER_PORT, where set, are kept with mpirun and srun. Raises UserError, naming
    the variables and their values, where two launchers contradict each other.
    """
    if any(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")):
        _check_given()
        return
    if _in_mpirun():
        found = _from_mpi()
    elif _in_step():
        found = _from_slurm()
    else:
        found = _alone()
    os.environ.update({NAMES[field]: str(value) for field, value in found._asdict().items()})


def mpi_world() -> Any | None:
    """mpi4py's COMM_WORLD where an MPI launcher (mpirun, ``srun --mpi=pmix``) started several processes, else None.

    MPI is initialised only where there is such a launcher; mpi4py finalises it when the process ends. Raises UserError
    where srun started several tasks that MPI knows nothing of: each would take itself for the only one.
    """
    if _in_mpirun() or "PMI_RANK" in os.environ:  # srun --mpi=pmi2 sets PMI_RANK too
        rank, size = _mpi_names()
    elif not _in_step() or _number("SLURM_NTASKS") == 1:
        return None
    elif "PMIX_RANK" in os.environ:
        rank, size = "SLURM_PROCID", "SLURM_NTASKS"
    else:
        raise UserError(
            f"{_said('SLURM_NTASKS')}, but no MPI: each task would do all of the work; "
            "start them with mpirun or srun --mpi=pmix, or a single one with srun --ntasks=1"
        )
    _require_rank(rank, size)
    if _in_step():
        _require_daemons(rank, size)
    return _checked_world(_load_mpi(rank), rank, size) if _number(size) > 1 else None


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    dice = random.SystemRandom()  # not the seeded one: starts beside each other would all choose alike
    for port in dice.sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
    raise UserError(f"a hundred ports of {PORTS[0]} to {PORTS[-1]} are all taken: set MASTER_PORT to a free one")


def no_meeting(error: Exception) -> UserError:
    """Why the ranks did not meet at MASTER_ADDR and MASTER_PORT, from torch's error of the first rank or another."""
    where = f"{_said('MASTER_ADDR')}, {_said('MASTER_PORT')}"
    if "EADDRINUSE" in str(error):
        return UserError(f"{where}: the port is taken on this machine; submit again, or export a free MASTER_PORT")
    reason = str(error).partition("\n")[0]
    return UserError(f"{where}: no rank 0 there ({reason}); export MASTER_ADDR with an address that all nodes reach")


def _check_given() -> None:
    missing = [name for name in NAMES.values() if name not in os.environ]
    if missing:
        given = ", ".join(_said(name) for name in NAMES.values() if name in os.environ)
        raise UserError(f"{given} without {', '.join(missing)}: set all five, or none and let srun or mpirun tell")
    _require_rank("RANK", "WORLD_SIZE")
    if _in_step():
        _require_inside("SLURM_PROCID", "SLURM_NTASKS")
    elif _in_mpirun():
        _require_inside(*_mpi_names())


def _require_rank(rank: str, size: str) -> None:
    if not 0 <= _number(rank) < _number(size):
        raise _contradiction(rank, size, advice=f"ranks are 0 to {size} - 1")


def _require_inside(outer_rank: str, outer_size: str) -> None:
    """RANK and WORLD_SIZE are the outer launcher's own numbers, or each of its processes started as many ranks."""
    _require_rank(outer_rank, outer_size)
    tasks, size = _number(outer_size), _number("WORLD_SIZE")
    # torchrun and deepspeed say how many agents joined. Which of them comes first torchrun may decide by arrival.
    for agents in ("GROUP_WORLD_SIZE", "CROSS_SIZE"):
        if agents in os.environ:
            if tasks not in (1, _number(agents)):
                advice = "start one launcher a node, and tell each of all nodes"
                raise _contradiction("WORLD_SIZE", agents, outer_size, advice=advice)
            return
    if size % tasks or _number("RANK") // (size // tasks) != _number(outer_rank):
        raise _contradiction("RANK", "WORLD_SIZE", outer_rank, outer_size, advice="they count different processes")


def _in_step() -> bool:
    """Whether srun started this process, or what started it."""
    return "SLURM_STEP_ID" in os.environ and _number("SLURM_STEP_ID") < NORMAL_STEPS


def _from_slurm() -> Ranks:
    _require_rank("SLURM_PROCID", "SLURM_NTASKS")
    if "PMI_RANK" in os.environ:  # srun --mpi=pmi2
        for pmi, slurm in (("PMI_RANK", "SLURM_PROCID"), ("PMI_SIZE", "SLURM_NTASKS")):
            if _number(pmi) != _number(slurm):
                raise _contradiction(pmi, slurm, advice="they count different processes")
    port = PORTS[(_number("SLURM_JOB_ID") + STRIDE * _number("SLURM_STEP_ID")) % len(PORTS)]
    return Ranks(
        rank=_number("SLURM_PROCID"),
        world_size=_number("SLURM_NTASKS"),
        local_rank=_number("SLURM_LOCALID"),
        address=os.environ.get("MASTER_ADDR") or _first_host(),
        port=_number("MASTER_PORT") if "MASTER_PORT" in os.environ else port,
    )


def _first_host() -> str:
    nodes = "SLURM_STEP_NODELIST" if "SLURM_STEP_NODELIST" in os.environ else "SLURM_JOB_NODELIST"
    hosts = expand(_text(nodes))
    if len(hosts) == 1:
        return LOOPBACK
    try:
        socket.getaddrinfo(hosts[0], None)
    except socket.gaierror as error:  # torch would try for the whole timeout
        raise UserError(
            f"{_said(nodes)}: {hosts[0]} has no address here; export MASTER_ADDR with one that all nodes reach"
        ) from error
    return hosts[0]


def _in_mpirun() -> bool:
    # Slurm's own PMI sets PMI_RANK as well, but not hydra's MPI_LOCALRANKID. Every rank of a job must answer alike.
    hydra = "PMI_RANK" in os.environ and ("MPI_LOCALRANKID" in os.environ or not _in_step())
    return "OMPI_COMM_WORLD_RANK" in os.environ or hydra


def _mpi_names() -> tuple[str, str]:
    """Open MPI's rank and size, or those of MPICH and Intel MPI."""
    if "OMPI_COMM_WORLD_RANK" in os.environ:
        return "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"
    return "PMI_RANK", "PMI_SIZE"


def _from_mpi() -> Ranks:
    rank, size = _mpi_names()
    _require_rank(rank, size)
    if _in_step():
        _require_daemons(rank, size)
    mpi = _load_mpi(rank)
    try:
        world = _checked_world(mpi, rank, size)
        hosts = world.allgather(mpi.Get_processor_name())
        meeting = world.bcast(_meeting_point(len(set(hosts)) == 1) if world.rank == 0 else None)
    finally:
        # MPI has said all it knows. Left to the exit it would wait there for every rank, and one that fails would
        # hang rather than take the job down.
        mpi.Finalize()
    if isinstance(meeting, str):
        raise UserError(meeting)
    local = next((name for name in ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID") if name in os.environ), None)
    local_rank = _number(local) if local else hosts[: _number(rank)].count(hosts[_number(rank)])
    return Ranks(_number(rank), _number(size), local_rank, *meeting)


def _load_mpi(rank: str) -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library to load
        reason = str(error).partition("\n")[0]
        raise UserError(f"{_said(rank)} says mpirun, but mpi4py does not load ({reason})") from error
    return MPI


def _checked_world(mpi: Any, rank: str, size: str) -> Any:
    world = mpi.COMM_WORLD
    if world.rank != _number(rank) or world.size != _number(size):
        raise UserError(
            f"{_said(rank)}, {_said(size)}, but to mpi4py this is rank {world.rank} of {world.size}: "
            "mpirun and mpi4py must be of the same MPI"
        )
    return world


def _require_daemons(rank: str, size: str) -> None:
    """In a Slurm step mpirun's ranks are the tasks, or each node has one task: the daemon that started its ranks."""
    nodes = "SLURM_STEP_NUM_NODES" if "SLURM_STEP_NUM_NODES" in os.environ else "SLURM_NNODES"
    tasks = _number("SLURM_NTASKS")
    same = _number(rank) == _number("SLURM_PROCID") and _number(size) == tasks
    if not same and (tasks > _number(nodes) or tasks > _number(size)):
        raise _contradiction(rank, size, "SLURM_PROCID", "SLURM_NTASKS", advice="use srun or mpirun, not both")


def _meeting_point(one_host: bool) -> tuple[str, int] | str:
    """Rank 0's address and port, or why there is none, for all ranks to say."""
    try:
        address = os.environ.get("MASTER_ADDR") or (LOOPBACK if one_host else _outward_address())
        return address, _number("MASTER_PORT") if "MASTER_PORT" in os.environ else free_port()
    except UserError as error:
        return str(error)


def _outward_address() -> str:
    """The address of the interface that routes outward; no packet is sent and no name looked up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation (RFC 5737)
        except OSError as error:
            raise UserError("rank 0 has no route outward; set MASTER_ADDR to an address that all reach") from error
        address: str = probe.getsockname()[0]
        return address


def _alone() -> Ranks:
    """One process, unless the machine was asked for more: then each would train on its own."""
    for name in ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_JOB_NUM_NODES"):
        if name in os.environ and _number(name) > 1:
            raise UserError(f"{_said(name)}, but this process is no task of a Slurm step: start it with srun")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name in os.environ:
            raise UserError(f"{_said(name)} without RANK, WORLD_SIZE, LOCAL_RANK, srun or mpirun: unset it")
    return Ranks(0, 1, 0, LOOPBACK, free_port())


def _contradiction(*names: str, advice: str) -> UserError:
    return UserError(f"{', '.join(map(_said, names))} contradict each other: {advice}")


def _said(name: str) -> str:
    return f"{name}={os.environ[name]}"


def _text(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise UserError(f"{name} is missing: what started this process did not say it") from None


def _number(name: str) -> int:
    try:
        return int(_text(name))
    except ValueError:
        raise UserError(f"{_said(name)} is not a number") from None
