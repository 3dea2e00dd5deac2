"""Slurm's short form of host names, ``gpu-a1,gpu-b[07-09]``, written out. Compute nodes need not have scontrol."""

import itertools
import math
import re

from clpds.bounds import HOSTS
from clpds.errors import UserError

ENTRY = re.compile(r"(?:[^][,\s]|\[[^][\s]*\])+")  # a comma inside brackets does not end an entry
PART = re.compile(r"\[([^]]*)\]|([^[]+)")


def expand(hostlist: str) -> list[str]:
    """All host names in Slurm's order: the last bracket counts fastest, duplicates stay.

    A number is at least as wide as the lower end of its range: ``[08-10]`` is 08, 09, 10. Raises
    UserError where brackets or ranges are not well formed.
    """
    if not re.fullmatch(f"{ENTRY.pattern}(?:,{ENTRY.pattern})*", hostlist):
        raise UserError(f"{hostlist!r} is not a list of hosts such as node[001-004,7]")
    return [host for entry in ENTRY.findall(hostlist) for host in _entry(entry)]


def _entry(entry: str) -> list[str]:
    choices = [[text] if text else _numbers(ranges) for ranges, text in PART.findall(entry)]
    if math.prod(map(len, choices)) > HOSTS:
        raise UserError(f"{entry!r} is over {HOSTS:,} hosts")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _numbers(ranges: str) -> list[str]:
    numbers: list[str] = []
    for part in ranges.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if match is None or not 0 <= int(match[2] or match[1]) - int(match[1]) < HOSTS:
            raise UserError(f"[{ranges}] is not a list of ascending ranges such as [001-004,7]")
        numbers += [f"{n:0{len(match[1])}d}" for n in range(int(match[1]), int(match[2] or match[1]) + 1)]
    return numbers
