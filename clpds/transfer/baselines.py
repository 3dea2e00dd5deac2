"""What CLP-Transfer is measured against: methods that need no helper."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from clpds.transfer.vocabulary_swap import Role, Rows
from clpds.vocabulary.overlap import Overlap
from clpds.vocabulary.panics import no_panic
from clpds.vocabulary.pieces import pieces


def random_rows(shared: Overlap, seed: int) -> Rows:
    """Every row drawn from the normal distribution with the source's mean and deviation per dimension.

    The overlap is not copied: this is the paper's baseline, a body that is reused under a vocabulary
    that is not.
    """

    def rows(source: Tensor, role: Role) -> Tensor:
        return drawn(source, shared.rows, role, seed)

    return rows


def overlap_rows(shared: Overlap, seed: int) -> Rows:
    """The overlap copied, every missing row drawn as in ``random_rows``."""

    def rows(source: Tensor, role: Role) -> Tensor:
        new = drawn(source, shared.rows, role, seed)
        new[shared.target] = source[shared.source]
        return new

    return rows


def drawn(source: Tensor, count: int, role: Role, seed: int) -> Tensor:
    """``count`` rows (count, c) from the normal distribution with the mean and deviation of each column of ``source``.

    Each role has noise of its own.
    """
    generator = torch.Generator().manual_seed(2 * seed + (role == "output"))
    noise = torch.randn(count, source.shape[1], generator=generator)
    deviation, mean = torch.std_mean(source.float(), dim=0, correction=0)
    return (noise * deviation + mean).to(source.dtype)


def mean_rows(shared: Overlap) -> Rows:
    """The overlap copied, every missing row the mean of all the source's rows."""

    def rows(source: Tensor, role: Role) -> Tensor:
        new = source.mean(dim=0, dtype=torch.float32).to(source.dtype).repeat(shared.rows, 1)
        new[shared.target] = source[shared.source]
        return new

    return rows


def subpiece_rows(shared: Overlap, segments: Mapping[int, list[int]]) -> Rows:
    """The overlap copied, a missing row the mean of the source rows of the token's own text.

    ``segments`` maps missing target ids to source ids (``segment``); the mean of all the source's rows
    where there are none, as for special tokens.
    """

    def rows(source: Tensor, role: Role) -> Tensor:
        new = mean_rows(shared)(source, role)
        for target, ids in segments.items():
            new[target] = source[ids].mean(dim=0, dtype=torch.float32).to(source.dtype)
        return new

    return rows


def segment(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase, ids: list[int]) -> dict[int, list[int]]:
    """Each target id of ``ids`` cut into source tokens; left out where the source cannot spell it.

    The source's tokenizer cuts. Where it would put a space before a fragment of a word, and where a
    token is no text by itself (a part of a UTF-8 sequence), its longest pieces from the left are
    taken instead, single bytes included.
    """
    known = pieces(source)
    wanted = {id_: piece.bytes for id_, piece in pieces(target).items() if id_ in set(ids)}
    spelled: dict[bytes, int] = {}
    for id_, piece in known.items():
        spelled.setdefault(piece.bytes, id_)
    longest = max(map(len, spelled))
    texts = [text.decode("utf-8", errors="replace") for text in wanted.values()]
    with no_panic(source.name_or_path):
        encodings = source.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    segments = {}
    for (id_, text), encoding in zip(wanted.items(), encodings, strict=True):
        cut = [piece for piece in encoding.ids if piece in known]
        if _spaces(b"".join(known[piece].bytes for piece in cut)) != _spaces(text) or not _is_text(text):
            cut = _longest_pieces(text, spelled, longest)
        if cut:
            segments[id_] = cut
    return segments


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


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
