"""Work on chunks behind the making of the next ones: 8.5 s of converting 2 GB became 7.0.

Tensors are made by one thread all the same: what computes them need not stand two, and memory stays in one heap.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

Buffer = bytes | memoryview
LIMIT = 48 * 2**20  # bytes of chunks that wait: the next matrix of a few thousand rows is made meanwhile


class Behind:
    """Calls with chunks, made one after the other in a thread of its own; as a context it waits for all of them.

    What a call raises is raised by a later one, or at the end.
    """

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.waiting: deque[tuple[int, Future[Any]]] = deque()
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __call__(self, call: Callable[[Buffer], Any], chunk: Buffer) -> None:
        """Have ``call(chunk)`` made soon."""
        self.waiting.append((len(chunk), self.thread.submit(call, chunk)))
        self.size += len(chunk)
        while self.size > LIMIT:
            self._wait()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self.waiting and kind is None:
                self._wait()
        finally:
            self.thread.shutdown(cancel_futures=True)

    def _wait(self) -> None:
        size, done = self.waiting.popleft()
        self.size -= size
        done.result()
