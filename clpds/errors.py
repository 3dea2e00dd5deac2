"""The one error that a user can do something about, and how it is said."""

import os
import shutil
import sys
import traceback

DEBUG = "CLPDS_DEBUG"  # set by `clpds --debug`, also for the ranks that the command starts


class UserError(Exception):
    """Bad input: the message is one line that names the file or key and says what to do.

    The command line prints it without a traceback and exits with status 2.
    """


def said(error: OSError) -> str:
    """What the system refused, and to which file: ``runs/de: No space left on device``."""
    if isinstance(error, shutil.Error):  # of a folder's copy: (from, to, why) for each file
        return str(error.args[0][0][2])
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def complain(verb: str, error: UserError) -> None:
    """Write the error to stderr: one line, whatever names of files and tensors it quotes."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(error))
    sys.stderr.write(f"clpds {verb}: error: {text}\n")
