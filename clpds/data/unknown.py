"""How much of a text is nothing to its tokenizer: the bytes that became its unknown token."""

import json
import sys
from collections.abc import Iterable, Mapping

import numpy as np
from tokenizers import Tokenizer

from clpds.data.tokenise import token_bytes
from clpds.vocabulary.marker import markers_only

WARN = 0.001  # of the text


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The token that stands for what the model has no other for; None where there is none, as with bytes."""
    model = json.loads(tokenizer.to_str())["model"]
    token = model.get("unk_token")
    found: int | None = model.get("unk_id") if token is None else tokenizer.token_to_id(token)
    return found


def unknown_share_of(texts: Iterable[str], tokenizer: Tokenizer) -> float:
    """Share of the texts' bytes that ``tokenizer`` has no token for."""
    unknown, markers = unknown_id(tokenizer), markers_only(tokenizer)
    lost = total = 0
    for text in texts:
        encoding, raw = tokenizer.encode(text, add_special_tokens=False), text.encode()
        ids = np.array(encoding.ids, np.int64)
        total += len(raw)
        if unknown in encoding.ids:
            lost += int(token_bytes(raw, encoding.offsets, markers[ids])[ids == unknown].sum())
    return lost / max(total, 1)


def unknown_share(count: Mapping[str, int]) -> float | None:
    """Share of a split's bytes that are unknown, of what `clpds data` counts; None where it did not count them yet."""
    return count["unknown_bytes"] / max(count["bytes"], 1) if "unknown_bytes" in count else None


def warn_of_unknown(share: float | None, what: str, but: str) -> None:
    """Say on stderr that more of ``what`` is unknown than should be, and what that does."""
    if share is not None and share > WARN:
        sys.stderr.write(f"warning: {share:.2%} of {what} (by bytes) is the unknown token; {but}\n")
