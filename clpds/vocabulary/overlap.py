"""Which rows of a new vocabulary exist already: tokens that stand for the same bytes, or fill the same role."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from clpds.vocabulary.pieces import Kind, Piece, pieces
from clpds.vocabulary.roles import match_special
from clpds.vocabulary.tokenizer import rows_needed, token_ids

# A text token stands for its bytes before a byte-fallback token does, and the other way round.
OTHER: dict[Kind, Kind] = {"text": "byte", "byte": "text"}


@dataclass(frozen=True)
class Overlap:
    """Row ``target[i]`` of the new vocabulary is row ``source[i]`` of the old one."""

    target: Tensor
    """int64 (n,), ascending ids."""
    source: Tensor
    """int64 (n,); an id may occur twice."""
    missing: Tensor
    """int64 (m,), ascending: the target ids in use without a partner. Holes are in neither."""
    rows: int
    """Rows that the target tokenizer needs."""
    how: dict[str, int]
    """Matches by kind of the target token: text, byte, special."""


def overlap(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase) -> Overlap:
    """Match each token of ``target`` with the token of ``source`` that means the same."""
    ids, source_ids = token_ids(target), token_ids(source)
    source_pieces, target_pieces = pieces(source), pieces(target)
    first: dict[Piece, int] = {}
    for source_id, piece in source_pieces.items():
        first.setdefault(piece, source_id)

    matched = match_special(source, target)
    how = Counter(text=0, byte=0, special=len(matched))
    for token, id_ in ids.items():
        if id_ not in target_pieces:
            continue
        wanted = target_pieces[id_]
        # Two source tokens may stand for the same text; the one spelt alike is this one.
        twin = source_ids.get(token)
        partner = twin if twin is not None and source_pieces.get(twin) == wanted else first.get(wanted)
        if partner is None:
            partner = first.get(Piece(OTHER[wanted.kind], wanted.bytes))
        if partner is not None:
            matched[id_] = partner
            how[wanted.kind] += 1
    pairs = sorted(matched.items())
    return Overlap(
        target=torch.tensor([id_ for id_, _ in pairs], dtype=torch.int64),
        source=torch.tensor([id_ for _, id_ in pairs], dtype=torch.int64),
        missing=torch.tensor([id_ for id_ in ids.values() if id_ not in matched], dtype=torch.int64),
        rows=rows_needed(target),
        how=dict(how),
    )


def coverage(found: Overlap) -> str:
    """``7,153 of 16,259 tokens shared (44.0 %): 6,890 text, 256 byte, 7 special``."""
    shared = len(found.target)
    total = shared + len(found.missing)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.how.items())
    return f"{shared:,} of {total:,} tokens shared ({100 * shared / total:.1f} %): {kinds}"
