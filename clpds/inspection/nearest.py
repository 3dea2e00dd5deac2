"""`clpds inspect --token`: which source tokens a token of the new vocabulary came out nearest to."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from clpds import provenance
from clpds.checkpoint import anatomy, open_checkpoint
from clpds.errors import UserError
from clpds.vocabulary.panics import no_panic
from clpds.vocabulary.pieces import pieces, special_tokens
from clpds.vocabulary.tokenizer import load_tokenizer

NEAREST = 8  # source tokens shown for a piece
Neighbour = tuple[str, float]  # (source token, cosine)


def show_nearest(path: Path, word: str, source: Path | None) -> None:
    """Print the nearest source tokens of each piece of ``word``."""
    found = nearest(path, word, source or _source_of(path))
    table = Table(*(piece for piece, _ in found), title="nearest tokens of the source (cosine)", title_justify="left")
    for rank in zip(*(neighbours for _, neighbours in found), strict=True):
        table.add_row(*(f"{cosine:.2f} {token}" for token, cosine in rank))
    Console(highlight=False, markup=False).print(table)


def nearest(path: Path, word: str, source: Path) -> list[tuple[str, list[Neighbour]]]:
    """For each piece of ``word`` (as it stands after a space) the source tokens by falling cosine.

    Compares the piece's input embedding in ``path`` with all of ``source``'s, in float32. Raises
    UserError where either has no tokenizer or the two are of different width.
    """
    tokenizer, rows = _open(path)
    source_tokenizer, candidates = _open(source)
    with no_panic(path):
        ids = tokenizer.encode(f" {word.strip()}", add_special_tokens=False)
    if not ids:
        raise UserError(f"token {word!r} is nothing to the tokenizer of {path}")
    if rows.shape[1] != candidates.shape[1]:
        raise UserError(f"{path} has width {rows.shape[1]}, {source} has {candidates.shape[1]}: no cosine between them")
    new_names, old_names = _names(tokenizer), _names(source_tokenizer)
    known = torch.tensor([id_ for id_ in old_names if id_ < len(candidates)])
    cosines = _unit(rows[torch.tensor(ids)]) @ _unit(candidates[known]).T
    values, places = cosines.topk(min(NEAREST, len(known)))
    return [
        (new_names[id_], [(old_names[int(known[place])], float(value)) for value, place in zip(*best, strict=True)])
        for id_, *best in zip(ids, values, places, strict=True)
    ]


def _source_of(path: Path) -> Path:
    record = (provenance.read(path) if path.is_dir() else None) or {"inputs": {}}
    if "source" not in record["inputs"]:
        raise UserError(f"{path} was not made by `clpds init`; name the model to look in with --source")
    return Path(record["inputs"]["source"]["path"])


def _open(path: Path) -> tuple[PreTrainedTokenizerBase, Tensor]:
    """Tokenizer and input embedding (V, d), float32."""
    checkpoint = open_checkpoint(path)
    if checkpoint.tokenizer_folder is None:
        raise UserError(f"{path} has no tokenizer; copy its files there")
    embedding = checkpoint.tensors[anatomy(checkpoint.config).input_embedding].load().float()
    return load_tokenizer(checkpoint.tokenizer_folder), embedding


def _names(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id to what the token stands for, readable: a leading space as ``_``, a lone byte as ``<C3>``."""
    return {id_: _readable(piece.bytes) for id_, piece in pieces(tokenizer).items()} | special_tokens(tokenizer)


def _readable(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return f"<{raw.hex(' ').upper()}>"
    return text.replace(" ", "_") if text.isprintable() else repr(text)[1:-1]


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)
