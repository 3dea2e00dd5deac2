"""From the ranks' reports to problems with a node's name, and to a table."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from clpds.output import human_bytes
from clpds.preflight.health import Report
from clpds.preflight.reduction import Sum

SKEW = 1.0  # seconds: more, and the times of files on the shared disk and of log lines mislead
WIDE = 140  # columns, where there is no terminal


class Clock(NamedTuple):
    """A node's clock minus rank 0's, and the time in which the answer came, in seconds."""

    offset: float
    round_trip: float


class Problem(NamedTuple):
    """A sentence that goes on from the node's name; ``node`` is None where it is nobody's in particular."""

    node: str | None
    text: str


def judge(
    reports: Sequence[Report], clocks: Mapping[str, Clock | None], world_size: int, nodes: Sequence[str]
) -> list[Problem]:
    """All that is wrong; ``nodes`` are those that srun uses, or empty where nobody says."""
    found = _missing(reports, world_size, nodes)
    found += [Problem(report.node, text) for report in reports for text in report.problems]
    found += _different(reports)
    found += _shared_devices(reports)
    found += _clocks(clocks)
    return _summarised(found, reports)


def judge_sums(reports: Sequence[Report], sums: Mapping[int, Sum]) -> list[Problem]:
    """What went wrong in the all-reduce of all ranks; ``sums`` of the ranks that ended it."""
    found = []
    for report in reports:
        part = sums.get(report.rank)
        text = "does not end the all-reduce" if part is None else part["problem"]
        if text is not None:
            found.append(Problem(report.node, text))
    return _summarised(found, reports)


def _summarised(found: Sequence[Problem], reports: Sequence[Report]) -> list[Problem]:
    """Each problem once; what every one of several nodes has is no node's fault."""
    problems = list(dict.fromkeys(found))
    nodes = {report.node for report in reports}
    if len(nodes) == 1:
        return problems
    shared = {
        text for text in (problem.text for problem in problems) if {Problem(n, text) for n in nodes} <= {*problems}
    }
    mine = [problem for problem in problems if problem.text not in shared]
    return [*(Problem(None, f"every node {text}") for text in sorted(shared)), *mine]


def _missing(reports: Sequence[Report], world_size: int, nodes: Sequence[str]) -> list[Problem]:
    silent = sorted(set(range(world_size)) - {report.rank for report in reports})
    if not silent:
        return []
    there = Counter(report.node for report in reports)
    suspects = [node for node in nodes if node not in there]
    if nodes and not suspects:  # some of a node's ranks have reported
        suspects = [node for node, ranks in there.items() if ranks < max(there.values()) or len(there) == 1]
    ranks = f"rank{'s' * (len(silent) > 1)} {numbers(silent)} of {world_size} did not report"
    return [Problem(node, f"is silent: {ranks}") for node in suspects] or [Problem(None, ranks)]


def _clocks(clocks: Mapping[str, Clock | None]) -> list[Problem]:
    found = [Problem(node, "has stopped to answer") for node, clock in clocks.items() if clock is None]
    told = {node: clock for node, clock in clocks.items() if clock is not None}
    usual = median_low([clock.offset for clock in told.values()]) if told else 0.0
    for node, clock in told.items():
        # The answer was written somewhere in the round trip: half of it is the most that the offset can be wrong by.
        if abs(clock.offset - usual) - clock.round_trip / 2 > SKEW:
            found.append(Problem(node, f"has a clock {clock.offset - usual:+.1f} s off the others'"))
    return found


def _different(reports: Sequence[Report]) -> list[Problem]:
    """Versions, and GPU or none, that are not those of most ranks; in doubt, of the lowest rank."""
    found = []
    facts = [report.versions | {"device": "none" if report.device == "cpu" else "GPU"} for report in reports]
    for name in facts[0] if facts else ():
        usual = Counter(fact[name] for fact in facts).most_common(1)[0][0]
        for report, fact in zip(reports, facts, strict=True):
            if fact[name] != usual and report.device != "?":
                found.append(Problem(report.node, f"has {name} {fact[name]}, the others {usual}"))
    return found


def _shared_devices(reports: Sequence[Report]) -> list[Problem]:
    owners: dict[tuple[str, str], list[int]] = {}
    for report in reports:
        if report.device_id is not None:
            owners.setdefault((report.node, report.device_id), []).append(report.rank)
    return [
        Problem(node, f"has ranks {numbers(ranks)} on one GPU") for (node, _), ranks in owners.items() if len(ranks) > 1
    ]


def print_table(reports: Sequence[Report], clocks: Mapping[str, Clock | None], problems: Sequence[Problem]) -> None:
    """One line a node on stdout: the least that any of its ranks has."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("node", "ranks", "device", "its memory free", "memory free", "disk free", "clock", ""):
        table.add_column(name, no_wrap=True)
    by_node: dict[str, list[Report]] = {}
    for report in reports:
        by_node.setdefault(report.node, []).append(report)
    bad = {problem.node for problem in problems}
    for node, ranks in by_node.items():
        devices = Counter(report.device for report in ranks)
        clock = clocks[node]
        table.add_row(
            node,
            numbers([report.rank for report in ranks]),
            ", ".join(f"{count} x {name}" if name != "cpu" else name for name, count in devices.items()),
            _least([report.device_free for report in ranks]),
            _least([report.memory_free for report in ranks]),
            _least([report.disk_free for report in ranks]),
            "-" if clock is None else f"{clock.offset:+.3f} s",
            "problem" if node in bad else "ok",
        )
    for node in sorted({node for node in bad if node is not None} - by_node.keys()):
        table.add_row(node, *["-"] * 6, "silent")
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDE).print(table)


def numbers(ranks: Sequence[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and runs[-1][-1] == rank - 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _least(sizes: Sequence[int | None]) -> str:
    known = [size for size in sizes if size is not None]
    return human_bytes(min(known)) if known else "-"
