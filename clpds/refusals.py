"""What the system refuses, told apart from what is wrong with a file: the right to read, a disk, memory."""

import errno
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

from clpds.errors import UnreadableError

# A damaged header makes a reader ask for a place that no file has: that is the file's fault.
FAULTS_OF_THE_FILE = (errno.EINVAL, errno.EOVERFLOW)
# While libraries look for a file in several places they pass over these, and then fail at something else.
PASSED_OVER = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
SHORT_OF_MEMORY = re.compile(
    r"(can(no|')t|could not|unable to|failed to) (allocate|mmap|map segment|start new thread)|out of memory|bad_alloc"
    r"|not enough memory",
    re.IGNORECASE,
)
OF_RUST = re.compile(r"\(os error (\d+)\)")


def require_given(file: Path, error: BaseException) -> None:
    """Call it where reading ``file`` failed, before it is called damaged.

    Raises UnreadableError with the system's own reason where that is why, MemoryError where there was too little of
    it; returns where neither is so.
    """
    for one in _chain(error):
        if is_short_of_memory(one):
            raise MemoryError(str(one)) from error
        code = one.errno if isinstance(one, OSError) else None
        if code is None and (found := OF_RUST.search(str(one))):
            code = int(found[1])
        if code in (None, *FAULTS_OF_THE_FILE) or (one is not error and code in PASSED_OVER):
            continue
        name = getattr(one, "filename", None) or file
        raise UnreadableError(f"{name} cannot be read: {os.strerror(code)}") from error


def is_short_of_memory(error: BaseException) -> bool:
    """Whether memory, or room for one more thread, is what was missing; torch and others raise what they like."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, SystemError) and memory_is_limited():  # Python's own, where it wanted to raise MemoryError
        return True
    return isinstance(error, RuntimeError | ImportError | OSError) and bool(SHORT_OF_MEMORY.search(str(error)))


def memory_is_limited() -> bool:
    """Whether ``ulimit -v`` or a batch system bounds the address space of this process."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it arose from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
