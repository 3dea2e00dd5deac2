"""Lines of the screen, and the JSON files that they are read from."""

from collections import Counter
from pathlib import Path
from typing import Any

from clpds import inside
from clpds.bounds import RECORD
from clpds.errors import UserError
from clpds.refusals import require_given

Rows = list[tuple[str, str]]


def shares(elements: Counter[str]) -> str:
    """``bfloat16``, or ``bfloat16 99 %, float32 1 %``."""
    if len(elements) == 1:
        return next(iter(elements))
    return ", ".join(f"{kind} {number / elements.total():.0%}" for kind, number in elements.most_common())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; UserError where there is none."""
    try:
        document: dict[str, Any] = inside.read_json(path, RECORD)
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        require_given(path, error)
        raise UserError(f"{path} cannot be read: {error}") from error
    return document
