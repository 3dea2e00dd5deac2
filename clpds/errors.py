"""The one error that a user can do something about, and how it is said."""

import os
import shutil
import sys
import traceback

DEBUG = "CLPDS_DEBUG"  # set by `clpds --debug`, also for the ranks that the command starts
LONGEST_LINE = 500  # characters on stderr for one error
LONGEST_WORD = 160  # characters of a path or name in a line that would be longer


class UserError(Exception):
    """Bad input: the message is one line that names the file or key and says what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class UnreadableError(UserError):
    """A file that is there and that the system does not give: it says nothing of what the file holds."""


def said(error: OSError) -> str:
    """What the system refused, and to which file: ``runs/de: No space left on device``."""
    if isinstance(error, shutil.Error):  # of a folder's copy: (from, to, why) for each file
        return str(error.args[0][0][2])
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def complain(verb: str, error: UserError) -> None:
    """Write the error to stderr: one line of LONGEST_LINE characters at most, whatever names it quotes."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(error))
    start = f"clpds {verb}: error: "
    sys.stderr.write(f"{start}{shortened(text, LONGEST_LINE - len(start) - 1)}\n")


def shortened(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters, cut in the middle: first each long word, then the whole.

    A path keeps its end, which is the file's name, and the line keeps its beginning, which names the file, and its
    end, which says what to do.
    """
    if len(text) > limit:
        text = " ".join(_cut(word, LONGEST_WORD, LONGEST_WORD // 3) for word in text.split(" "))
    return _cut(text, limit, limit * 3 // 5)


def _cut(text: str, limit: int, head: int) -> str:
    """The first ``head`` characters, three dots, and as much of the end as ``limit`` allows."""
    return text if len(text) <= limit else f"{text[:head]}...{text[head + 3 - limit :]}"
