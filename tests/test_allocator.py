"""What is freed stays with a process that asks for that, and is given back where it asks for that."""

import os
import subprocess
import sys

STEPS = """
import resource, sys, torch
from clpds.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
faults = []
for _ in range(8):
    tensors = [torch.ones(2**24) for _ in range(3)]  # 64 MiB each
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-3])
"""

HOLES = """
import os, torch
from clpds.allocator import give_back_freed_memory, keep_freed_memory

def held():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20  # MiB

keep_freed_memory()
tensors = [torch.ones(2**22) for _ in range(40)]  # 16 MiB each
del tensors[:-1]  # the last one keeps the heap from shrinking
before = held()
give_back_freed_memory()
print(before - held())
"""


def run(program: str, *words: str) -> float:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", program, *words]
    return float(subprocess.run(command, env=plain, check=True, capture_output=True).stdout)


def faults(kind: str) -> float:
    """Pages that the system had to provide in the last two of eight steps; glibc's heap has grown by then."""
    return run(STEPS, kind)


def test_freed_tensors_are_used_again() -> None:
    assert faults("kept") < 0.01 * faults("given back")


def test_what_is_free_between_other_tensors_is_given_back() -> None:
    assert run(HOLES) > 500  # of 624 MiB
