"""stdout and stderr that may be closed, broken or full: the work goes on, and the end of the command says so."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

PIPE_CLOSED = 128 + 13  # what a shell reports of a program that SIGPIPE ended


class _Outlet(io.FileIO):
    """A descriptor whose first error is kept for later; what is written from then on goes nowhere."""

    refused: OSError | None = None

    def write(self, data: Any) -> int:
        if self.refused is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.refused = error
        return len(data)


@contextmanager
def guarded_streams(*, rank: bool) -> Iterator[None]:
    """Let nothing that is printed end the work within: a reader that has gone, a full disk, ``>&-``.

    Afterwards the process leaves with PIPE_CLOSED where nobody reads stdout, unless it is a ``rank``, whose launcher
    would take that for a failure; and with 2 and one line where a disk took not all of it.
    """
    _fill_gaps()
    outlet = None
    if sys.stdout is sys.__stdout__:  # else a caller keeps what is printed
        sys.stdout, outlet = _guarded(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr, _ = _guarded(sys.stderr, 2)
    try:
        yield
    except SystemExit as leaving:  # after --help too
        if leaving.code:
            raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    if outlet is None or outlet.refused is None or rank:
        return
    if outlet.refused.errno in (errno.EPIPE, errno.EBADF):
        sys.exit(PIPE_CLOSED)
    sys.stderr.write(f"clpds: error: stdout: {outlet.refused.strerror}; not all is there that was to be printed\n")
    sys.exit(2)


def _guarded(stream: TextIO | None, number: int) -> tuple[TextIO, _Outlet]:
    """In the place of ``stream``, which is None where Python found the descriptor closed."""
    outlet = _Outlet(number, "wb", closefd=False)
    # What is printed may have any character in it, of a token for instance, and the screen may know few.
    encoding, errors = (stream.encoding, stream.errors) if stream else ("utf-8", "strict")
    lines = number != 1 or outlet.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(outlet), encoding, "backslashreplace" if errors == "strict" else errors, line_buffering=lines
    ), outlet


def _fill_gaps() -> None:
    """Put something under the numbers 0, 1 and 2 that are closed: the next file opened would be taken for them.

    At 0 and 1 it can only be read, so that what is printed there is an error to whoever looks for one.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.set_inheritable(number, True)
