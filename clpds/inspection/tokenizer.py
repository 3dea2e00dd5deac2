"""What a tokenizer says of itself: without transformers where its files say all, which takes 3 s less."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from clpds.inspection.rows import Rows, read_json
from clpds.tokenizer_files import BYTE_TOKEN, require_small_files

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
LISTS = ("additional_special_tokens", "extra_special_tokens")
# What a tokenizer class of transformers may take for special although the folder does not say so.
USUAL = re.compile(r"<\|.*\|>|\[\w+\]|__\w+__|</?(s|unk|pad|mask|cls|sep|eos|bos|blank|special\d)>", re.IGNORECASE)


class Facts(NamedTuple):
    """What is shown of a tokenizer."""

    family: str
    ids: dict[str, int]
    special: dict[int, str]


def tokenizer(folder: Path) -> Rows:
    """Family, size and special tokens."""
    family, ids, special = from_files(folder) or opened(folder)
    count, rows = len(ids), max(ids.values()) + 1
    holes = f", ids up to {rows - 1:,}" if rows > count else ""
    specials = [f"{token} {id_}" for id_, token in sorted(special.items())]
    more = f" and {len(specials) - 8} more" if len(specials) > 8 else ""
    return [
        ("tokenizer", f"{family}, {count:,} tokens{holes}"),
        ("special tokens", (", ".join(specials[:8]) or "none") + more),
    ]


def from_files(folder: Path) -> Facts | None:
    """None where a class of transformers might add to what the files say, and where they cannot be read."""
    try:
        require_small_files(folder)
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        pipeline: dict[str, Any] = json.loads(backend.to_str())
        settings = read_json(folder / "tokenizer_config.json")
        if (folder / "special_tokens_map.json").is_file():
            settings |= read_json(folder / "special_tokens_map.json")
        named, added = _named(settings), (settings.get("added_tokens_decoder") or {}).values()
        named |= {token["content"] for token in added if token["special"]}
    except Exception:  # the library raises Exception itself; transformers then says what is wrong
        return None
    ids = backend.get_vocab(with_added_tokens=True)
    flagged = {token["content"] for token in pipeline["added_tokens"] if token["special"]}
    if not ids or not named | {token["content"] for token in added} <= ids.keys():
        return None
    if any(USUAL.fullmatch(token) for token in ids.keys() - flagged - named):
        return None
    falls_back = pipeline["model"].get("byte_fallback")
    special = {ids[token]: token for token in flagged | named if not (falls_back and BYTE_TOKEN.fullmatch(token))}
    return Facts(_family(pipeline), ids, special)


def _named(settings: dict[str, Any]) -> set[str]:
    """Tokens that these settings give a role."""
    found = [settings.get(f"{role}_token") for role in ROLES]
    for key in LISTS:
        some = settings.get(key) or ()
        found += some.values() if isinstance(some, dict) else some
    return {token["content"] if isinstance(token, dict) else token for token in found if token is not None}


def opened(folder: Path) -> Facts:
    """With transformers; UserError where it cannot open the tokenizer."""
    from clpds.vocabulary.pieces import special_tokens
    from clpds.vocabulary.tokenizer import backend, load_tokenizer, token_ids

    loaded = load_tokenizer(folder)
    return Facts(_family(backend(loaded)), token_ids(loaded), special_tokens(loaded))


def _family(pipeline: dict[str, Any]) -> str:
    kind = pipeline["model"]["type"]
    if kind == "BPE" and '"ByteLevel"' in json.dumps(pipeline):
        return "byte-level BPE"
    return f"{kind} with byte fallback" if pipeline["model"].get("byte_fallback") else kind
