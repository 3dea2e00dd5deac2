"""Progress on the screen: a bar in a terminal, a line at the end in a log file."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[float], None]]:
    """Yield ``advance(n)``; ``total`` in whatever unit the caller counts.

    On a terminal a bar is drawn on stderr; elsewhere one line is written there when the work took
    over three seconds, so that a batch log stays readable.
    """
    if not sys.stderr.isatty():
        start = time.monotonic()
        yield lambda n: None
        if (seconds := time.monotonic() - start) > 3:
            sys.stderr.write(f"{what}: {seconds:.0f} s\n")
        return
    from rich.console import Console  # a login node's commands import this file and draw no bar
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)
