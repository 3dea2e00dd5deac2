"""A token cut into another tokenizer's tokens."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from clpds.vocabulary.panics import no_panic
from clpds.vocabulary.pieces import Piece, pieces


def segment(
    source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase, ids: Collection[int]
) -> dict[int, list[int]]:
    """Each target id of ``ids`` cut into source tokens; left out where the source cannot spell it.

    The source's tokenizer cuts, with the space before every text switched off that some put there (Llama 2), or
    putting it where the token begins with one. The longest pieces from the left are taken instead where it gives
    another space at the beginning or unknown tokens, and where the token is no text by itself (a part of a UTF-8
    sequence). Of two source tokens for the same bytes the text token is taken, not the byte-fallback token, which
    training has hardly seen.
    """
    known, asked = pieces(source), set(ids)
    wanted = {id_: piece.bytes for id_, piece in pieces(target).items() if id_ in asked}
    segments = _own_cuts(source, known, {id_: text for id_, bytes_ in wanted.items() if (text := _text(bytes_))})
    spelled: dict[bytes, int] = {}
    for id_, piece in sorted(known.items(), key=lambda item: item[1].kind != "text"):  # stable: by id within a kind
        spelled.setdefault(piece.bytes, id_)
    longest = max(map(len, spelled))
    for id_, bytes_ in wanted.items():
        if id_ not in segments and (cut := _longest_pieces(bytes_, spelled, longest)):
            segments[id_] = cut
    return segments


def _own_cuts(
    source: PreTrainedTokenizerBase, known: Mapping[int, Piece], texts: Mapping[int, str]
) -> dict[int, list[int]]:
    """The source tokenizer's ids for those of ``texts`` that it cuts into known pieces with the same spaces first."""
    bare = without_prefix(source.backend_tokenizer)
    found: dict[int, list[int]] = {}
    for tokenizer, prefix in ((bare, ""), (source.backend_tokenizer, " ")):
        left = {id_: text for id_, text in texts.items() if id_ not in found and text.startswith(prefix)}
        bare_texts = [text.removeprefix(prefix) for text in left.values()]
        with no_panic(source.name_or_path):
            encodings = tokenizer.encode_batch(bare_texts, add_special_tokens=False)
        for (id_, text), encoding in zip(left.items(), encodings, strict=True):
            cut = encoding.ids
            if cut and all(piece in known for piece in cut):
                spelled = b"".join(known[piece].bytes for piece in cut)
                if _spaces(spelled) == _spaces(text.encode()):
                    found[id_] = cut
    return found


def without_prefix(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that puts no space before a text, whichever of its parts does."""
    pipeline = json.loads(tokenizer.to_str())
    for key in ("normalizer", "pre_tokenizer"):
        pipeline[key] = _without_prefix(pipeline[key])
    return Tokenizer.from_str(json.dumps(pipeline))


def _without_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    if part is None or part["type"] == "Prepend":
        return None
    changed = dict(part)
    if "prepend_scheme" in part:  # Metaspace
        changed |= {"prepend_scheme": "never"}
    if "add_prefix_space" in part:  # ByteLevel, and Metaspace of older files
        changed |= {"add_prefix_space": False}
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            changed[key] = [inner for old in part[key] if (inner := _without_prefix(old)) is not None]
    return changed


def _longest_pieces(text: bytes, spelled: Mapping[bytes, int], longest: int) -> list[int]:
    """Greedy from the left; bytes that no piece starts with are left out."""
    cut, start = [], 0
    while start < len(text):
        stop = next((s for s in range(min(len(text), start + longest), start, -1) if text[start:s] in spelled), None)
        if stop is not None:
            cut.append(spelled[text[start:stop]])
        start = stop or start + 1
    return cut


def _spaces(text: bytes) -> int:
    return len(text) - len(text.lstrip(b" "))


def _text(bytes_: bytes) -> str | None:
    try:
        return bytes_.decode()
    except UnicodeDecodeError:
        return None
