"""How a command ends that cannot go on: one line on stderr and an exit status, whatever was raised."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from clpds.errors import UserError, complain, said
from clpds.refusals import is_short_of_memory, memory_is_limited

PANIC = "PanicException"  # of Rust libraries; a BaseException, of a module that cannot be imported


@contextmanager
def one_line(verb: str) -> Iterator[None]:
    """End the process with status 2 after bad input, refusals of the system and want of memory, 130 after Ctrl-C.

    Any other exception is an error of ours and goes on with its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"clpds {verb}: interrupted; the same command goes on or starts again\n")
        sys.exit(130)
    except BaseException as error:
        if (theirs := mendable(error)) is None:
            raise
        complain(verb, theirs)
        if is_short_of_memory(error) and memory_is_limited():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(2)  # the interpreter's own end wants memory too, and would say more
        sys.exit(2)


def mendable(error: BaseException) -> UserError | None:
    """The error as one that the user can do something about; None where it is ours, or no error."""
    if isinstance(error, UserError):
        return error
    if is_short_of_memory(error):
        return _memory(error)
    if isinstance(error, OSError):
        return UserError(said(error))
    if type(error).__name__ == PANIC:
        return UserError(f"a library gave up ({' '.join(str(error).split())}); is an input damaged?")
    return None


def _memory(error: BaseException) -> UserError:
    what = " ".join(str(error).split()).partition(" Exception raised from")[0]  # torch appends its own stack
    wanted = f" ({what[:200]})" if what else ""
    short = UserError(f"memory is short{wanted}: give the command more (ulimit -v, the job's --mem), or less to do")
    short.__cause__ = error
    return short
