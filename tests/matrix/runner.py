"""Many models, each in a process of its own that is forked after the imports and has a time limit."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.matrix.build import Kind
from tests.matrix.check import COLUMNS, Outcome, check
from tests.matrix.inputs import Inputs
from tests.ranks import run_ranks

AT_ONCE, LIMIT = 2, 300.0  # processes; seconds for a model


def run(
    kinds: Iterable[Kind], inputs: Inputs, folder: Path, tell: Callable[[Kind, Outcome], None] | None = None
) -> dict[Kind, Outcome]:
    """The outcome of each; what a process printed lies in ``folder``. ``tell`` is called with each once it is known."""

    def one(kind: Kind) -> tuple[Kind, Outcome]:
        found = _one(kind, inputs, folder / kind.key)
        if tell:
            tell(kind, found)
        return kind, found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(pool.map(one, kinds))


def _one(kind: Kind, inputs: Inputs, progress: Path) -> Outcome:
    try:
        (found,) = run_ranks(1, check, kind, inputs, progress, timeout=LIMIT)
    except RuntimeError as error:  # it hangs or died: the column that it was at is to blame
        done: Outcome = json.loads(progress.read_text()) if progress.is_file() else {}
        why = str(error).strip().splitlines()[-1]
        return {column: done.get(column, f"TRACEBACK: {why}") for column in COLUMNS}
    return found
