"""How a command ends that cannot go on: one line on stderr and an exit status, whatever was raised."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from clpds.errors import UserError, complain, said
from clpds.refusals import is_short_of_memory

PANIC = "PanicException"  # of Rust libraries; a BaseException, of a module that cannot be imported


@contextmanager
def one_line(verb: str) -> Iterator[None]:
    """End the process with status 2 after bad input, refusals of the system and want of memory, 130 after Ctrl-C.

    Any other exception is an error of ours and goes on with its traceback.
    """
    try:
        yield
    except UserError as error:
        _leave(verb, error)
    except KeyboardInterrupt:
        sys.stderr.write(f"clpds {verb}: interrupted; the same command goes on or starts again\n")
        sys.exit(130)
    except Exception as error:
        if is_short_of_memory(error):
            _leave(verb, _memory(error))
        if isinstance(error, OSError):
            _leave(verb, UserError(said(error)))
        raise
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        _leave(verb, UserError(f"a library gave up ({' '.join(str(error).split())}); is an input damaged?"))


def _leave(verb: str, error: UserError) -> None:
    complain(verb, error)
    sys.exit(2)


def _memory(error: Exception) -> UserError:
    what = " ".join(str(error).split()).partition(" Exception raised from")[0]  # torch appends its own stack
    wanted = f" ({what[:200]})" if what else ""
    short = UserError(f"memory is short{wanted}: give the command more (ulimit -v, the job's --mem), or less to do")
    short.__cause__ = error
    return short
