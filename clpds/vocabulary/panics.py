"""A tokenizer that gives up on a text: said in one line, not in Rust's many."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clpds.ending import PANIC
from clpds.errors import UserError


@contextmanager
def no_panic(tokenizer: Path | str) -> Iterator[None]:
    """Around calls of the library tokenizers: UserError where its Rust code panics, as at a regex that tries too long.

    Rust writes of a panic to stderr by itself, so what is written there meanwhile is kept back and given out
    afterwards, unless it was a panic. For the main thread: stderr is the process's.
    """
    kept, stderr = os.memfd_create("stderr"), os.dup(2)
    panicked = False
    os.dup2(kept, 2)
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        panicked = True
        reason = " ".join(str(error).split())
        raise UserError(
            f"{tokenizer}: the tokenizer gave up on a text ({reason}); mend the regex in its tokenizer.json, or find "
            "the text, which may be one very long word"
        ) from None
    finally:
        os.dup2(stderr, 2)
        if not panicked and (size := os.fstat(kept).st_size):
            os.write(2, os.pread(kept, size, 0))
        os.close(stderr)
        os.close(kept)
