"""Chunks are worked on behind their making: in order, a few at a time, and no failure is lost."""

import threading
import time

import pytest

from clpds.checkpoint.behind import LIMIT, Behind, Buffer

CHUNK = bytes(LIMIT // 4)


def test_in_order_and_never_far_behind() -> None:
    go, done, ahead = threading.Event(), [], []

    def work(chunk: Buffer) -> None:
        go.wait()
        time.sleep(0.001)
        done.append(chunk)

    chunks = [CHUNK[number:] for number in range(40)]
    with Behind() as behind:
        for number, chunk in enumerate(chunks, 1):
            behind(work, chunk)
            ahead.append(number - len(done))
            if number == 4:  # they fit, and nobody has waited
                go.set()
    assert done == chunks
    assert max(ahead) == 4


def work_on(chunks: int) -> None:
    """The first of ``chunks`` fails."""

    def full(chunk: Buffer) -> None:
        raise OSError(28, "No space left on device")

    with Behind() as behind:
        behind(full, CHUNK)
        for _ in range(chunks - 1):
            behind(len, CHUNK)


@pytest.mark.parametrize("chunks", [1, 10])
def test_a_failure_is_raised_where_the_chunks_are_made(chunks: int) -> None:
    with pytest.raises(OSError, match="No space"):
        work_on(chunks)
