"""Signals become a flag that the loop reads at its step boundary."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopFlag:
    """Which signal asked this rank to stop, or 0."""

    number = 0


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Catch SIGTERM, SIGUSR1 and the first Ctrl-C; a second Ctrl-C interrupts at once."""
    flag = StopFlag()

    def set_flag(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and flag.number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.number = number

    caught = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.signal(number, set_flag) for number in caught]
    try:
        yield flag
    finally:
        for number, handler in zip(caught, before, strict=True):
            signal.signal(number, handler)
