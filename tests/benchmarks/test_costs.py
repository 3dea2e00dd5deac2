"""What a benchmark says of a command is the command's own."""

import sys

import pytest

from benchmarks.costs import cost_of

MB = 10**6


def test_memory_is_the_commands_own_and_not_its_parents() -> None:
    held = bytearray(400 * MB)

    idle = cost_of([sys.executable, "-c", "pass"])
    busy = cost_of([sys.executable, "-c", f"held = bytearray({200 * MB})"])

    assert len(held) == 400 * MB
    assert idle.peak_bytes < 100 * MB
    assert 200 * MB < busy.peak_bytes < 300 * MB


def test_a_command_that_fails_is_told_with_the_end_of_its_output() -> None:
    with pytest.raises(RuntimeError, match=r"ended with status 3\nno such thing"):
        cost_of(["sh", "-c", "echo no such thing >&2; exit 3"])
