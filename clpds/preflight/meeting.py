"""Rank 0 asks, every rank answers, over a key-value store; so a rank that hangs is one that does not answer."""

import json
import os
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

from torch.distributed import DistStoreError, TCPStore  # type: ignore[attr-defined]  # stubs forget TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from clpds.bounds import RECIPE
from clpds.errors import UserError
from clpds.inside import read_text
from clpds.output import write_text
from clpds.preflight.entry import Waiting
from clpds.preflight.health import SEEN_WITHIN, Report, introduce, look_at_device, mark, read_mark, write_mark
from clpds.preflight.reduction import Sum, all_reduce, describe
from clpds.preflight.verdict import Clock, Problem, judge, judge_sums, print_table
from clpds.run_folder import BAD_NODES
from launcher.hostlist import expand

PINGS = 3  # the quickest tells the clock
PROMPT = 5.0  # seconds in which a rank that has reported answers, or leaves before rank 0 takes the store away
FOREVER = timedelta(minutes=2)  # the watchdogs end everything earlier


def store(seconds: float, *, serve: bool = False) -> Store:
    """The store at MASTER_ADDR:MASTER_PORT, where it is there within ``seconds``; serving it waits for nobody.

    Raises torch's DistError, a RuntimeError.
    """
    theirs = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun serves one itself
    tcp = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=serve and not theirs,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
    )
    tcp.set_timeout(FOREVER)
    return PrefixStore(f"preflight{os.environ.get('TORCHELASTIC_RESTART_COUNT', '')}", tcp)


def follow(shared: Store, folder: Path, waiting: Waiting) -> int:
    """Look at this rank, report, and do what rank 0 asks until it says with which status to leave."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    own = mark(folder, token := shared.get("token").decode(), rank)
    if token:
        report = introduce(rank)
        waiting.what = f"the folder {folder}"
        if int(os.environ["LOCAL_RANK"]) == 0:
            write_mark(report, own)
        if rank == 0:
            shared.set("written", str(own.exists()))
        elif _arrives(shared, "written", SEEN_WITHIN) and shared.get("written") == b"True":
            read_mark(report, mark(folder, token, 0))
        waiting.what = "its device"
        look_at_device(report)
        shared.set(f"report/{rank}", json.dumps(asdict(report)))
    waiting.what = None
    for number in count():
        order = shared.get(f"order/{rank}/{number}").decode()
        answer = json.dumps(all_reduce(shared, rank, world_size)) if order == "sum" else str(time.time())
        if order.isdecimal():
            with suppress(OSError):
                own.unlink()
        shared.set(f"answer/{rank}/{number}", answer)
        if order.isdecimal():
            return int(order)
    raise AssertionError


def conduct(shared: Store, folder: Path, *, reports: float, end: float) -> int:
    """Gather reports until ``reports``, sum until ``end`` (both of time.monotonic), print, tell all ranks the status.

    Raises UserError where ``folder`` cannot be made.
    """
    ranks = range(int(os.environ["WORLD_SIZE"]))
    asked = Counter[int]()

    def ask(whom: Iterable[int], order: str, until: float) -> dict[int, str]:
        """The answers of those who give one."""
        keys = {rank: f"{rank}/{asked[rank]}" for rank in whom}
        asked.update(keys.keys())
        for key in keys.values():
            shared.set(f"order/{key}", order)
        came = [rank for rank, key in keys.items() if _arrives(shared, f"answer/{key}", until - time.monotonic())]
        return {rank: shared.get(f"answer/{keys[rank]}").decode() for rank in came}

    try:
        folder.mkdir(parents=True, exist_ok=True)
        _forget(folder / BAD_NODES)
    except OSError as error:
        shared.set("token", "")
        ask(ranks, "2", reports)
        raise UserError(f"{folder} cannot be written: {error.strerror}; name a folder that all ranks share") from error
    shared.set("token", secrets.token_hex(8))
    came = [rank for rank in ranks if _arrives(shared, f"report/{rank}", reports - time.monotonic())]
    found = [Report(**json.loads(shared.get(f"report/{rank}"))) for rank in came]
    speakers = {report.node: report.rank for report in reversed(found)}  # each node's first rank
    clocks = {node: _clock(partial(ask, [speakers[node]], "time", time.monotonic() + PROMPT)) for node in speakers}
    problems = judge(found, clocks, len(ranks), _slurm_nodes())
    summed = "all-reduce: not tried"
    if not problems:
        sums: dict[int, Sum] = {rank: json.loads(answer) for rank, answer in ask(ranks, "sum", end).items()}
        problems = judge_sums(found, sums)
        summed = describe(sums.values()) if not problems else "all-reduce: failed"
    print_table(found, clocks, problems)
    sys.stdout.write(summed + "\n")
    _tell(problems, folder)
    status = 1 if problems else 0
    ask(came, str(status), time.monotonic() + PROMPT)
    return status


def _tell(problems: Sequence[Problem], folder: Path) -> None:
    for problem in problems:
        sys.stderr.write(f"clpds preflight: {f'{problem.node} ' if problem.node else ''}{problem.text}\n")
    if bad := sorted({problem.node for problem in problems if problem.node}):
        try:
            write_text(folder / BAD_NODES, "".join(f"{node}\n" for node in bad))
        except OSError as error:
            sys.stderr.write(f"clpds preflight: {folder / BAD_NODES} cannot be written: {error.strerror}\n")


def _forget(file: Path) -> None:
    """Remove the list that the preflight before left; UserError for a file of that name which is none."""
    if file.is_symlink() or (file.exists() and not re.fullmatch(r"([\w.-]+\n)*", read_text(file, RECIPE))):
        raise UserError(f"{file} is no list of nodes that a preflight left; move it away")
    file.unlink(missing_ok=True)


def _clock(ask: Callable[[], dict[int, str]]) -> Clock | None:
    """A rank's clock against this one's, from the quickest of a few answers; None where none comes."""
    clocks = []
    for _ in range(PINGS):
        before = time.time()
        answers = ask()
        after = time.time()
        clocks += [Clock(float(told) - (before + after) / 2, after - before) for told in answers.values()]
    return min(clocks, key=lambda clock: clock.round_trip, default=None)


def _slurm_nodes() -> list[str]:
    """The nodes that take part, where srun says so; a job's nodes need not all take part in an mpirun."""
    return expand(os.environ["SLURM_STEP_NODELIST"]) if "SLURM_STEP_NODELIST" in os.environ else []


def _arrives(shared: Store, key: str, seconds: float) -> bool:
    """Whether the key is there within that time."""
    try:
        shared.wait([key], timedelta(seconds=max(seconds, 0.01)))
    except DistStoreError:
        return False
    return True
