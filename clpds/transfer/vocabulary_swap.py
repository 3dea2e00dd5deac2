"""Give a model another vocabulary: new rows for every tensor that has one a token, the rest untouched.

What a method that swaps a vocabulary has to supply is ``Rows``.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from clpds.checkpoint import Checkpoint, LazyTensor, anatomy
from clpds.checkpoint.anatomy import set_vocabulary
from clpds.checkpoint.lookups import position_tables, require_known_tables
from clpds.checkpoint.safetensors import is_finite
from clpds.errors import UserError
from clpds.vocabulary.blocks import blocks
from clpds.vocabulary.config_ids import with_ids

Role = Literal["input", "output"]
Rows = Callable[[Tensor, Role], Tensor]
"""A method: the source's rows (V_s, c) of a role -> the target's (rows, c), same dtype.

Every column is a value a token has: the dimensions of the embedding or of the head, and the head's
biases. Rows of ids that the target tokenizer does not use may hold anything.
"""


def parts(checkpoint: Checkpoint) -> dict[Role, list[str]]:
    """The vocabulary's tensors by role, the matrix first, then biases and further tables.

    A tied head has no role of its own: its biases go with the matrix it shares. Raises UserError for a tensor whose
    values a token cannot lend another: whole numbers, such as the experts that a token is sent to.
    """
    found = anatomy(checkpoint.config)
    head: Role = "output" if found.output_embedding else "input"
    names: dict[Role, list[str]] = {"input": [found.input_embedding]}
    if found.output_embedding:
        names["output"] = [found.output_embedding]
    looked_up = {f"{name}.weight" for name, module in found.model.named_modules() if isinstance(module, nn.Embedding)}
    if found.input_embedding not in found.vocabulary:
        raise UserError(
            f"{found.model_class.__name__}: the rows of {found.input_embedding} do not follow vocab_size; "
            "no other vocabulary can be given to this model"
        )
    for name in found.vocabulary:
        if not checkpoint.tensors[name].dtype.is_floating_point:
            raise UserError(
                f"{found.model_class.__name__}: {name} has whole numbers for each token id, "
                "which cannot be given to the tokens of another vocabulary"
            )
        if name not in (found.input_embedding, found.output_embedding):
            names["input" if name in looked_up else head].append(name)
    return names


def read_rows(checkpoint: Checkpoint, names: list[str], ids: Tensor | None = None) -> Tensor:
    """The tensors side by side, a row a token: (V, c), c the width of the matrix plus one a bias.

    With ``ids``, int64 and ascending, only these rows, (len(ids), c); memory follows what is kept. A table that is
    shorter than the vocabulary has its first row for the tokens that it lacks, as Gemma 3n reads it.
    Raises UserError that names the tensor, its file and the row of a NaN or infinity, wherever it is.
    """
    columns = []
    vocabulary = anatomy(checkpoint.config).vocabulary
    height = checkpoint.config.get_text_config().vocab_size
    wanted = torch.arange(height) if ids is None else ids
    for name in names:
        lazy = by_token(checkpoint.tensors[name], vocabulary[name])
        own = min(height, lazy.shape[0])
        width = lazy.numel // lazy.shape[0]
        column = torch.empty(len(wanted), width, dtype=lazy.dtype)
        for part in blocks(own, max(1, width)):
            block = lazy.rows(part.start, part.stop) if lazy.rows is not None else lazy.load()[part]
            block = block.reshape(-1, width)
            if not is_finite(block):
                row = part.start + int((~block.isfinite().all(dim=1)).nonzero()[0])
                raise UserError(f"{lazy.origin or checkpoint.path}: row {row} of {name} holds NaN or infinity")
            ends = torch.tensor([part.start, part.start + len(block)])
            first, last = torch.searchsorted(wanted, ends).tolist()
            column[first:last] = block[wanted[first:last] - part.start]
            if not part.start:
                column[torch.searchsorted(wanted, own) :] = block[0]
        columns.append(column)
    return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)


def swap_vocabulary(
    source: Checkpoint,
    rows: Mapping[Role, Tensor],
    *,
    used: Tensor,
    special_ids: Mapping[str, int] | None,
    tokenizer_folder: Path,
    moved: Mapping[int, int] | None = None,
    pad_to: int = 1,
) -> Checkpoint:
    """``source`` with ``rows`` of each role for its vocabulary, the target's tokenizer and special ids.

    With ``special_ids`` None, the ids of the source's config stay. ``moved`` is source id to target id of the tokens
    that both have: what the generation config lists of others is dropped. ``used`` are the ids that are tokens.
    All other rows, holes and those that round the number up to a multiple of ``pad_to``, get the mean of
    the rows in use: their logit is then the mean logit, which is never the highest, while a zero or
    random row can win the softmax.
    """
    replaced: dict[str, LazyTensor] = {}
    height = -(-len(rows["input"]) // pad_to) * pad_to
    found = anatomy(source.config)
    require_known_tables(found)
    tokens = source.config.get_text_config().vocab_size
    for role, names in parts(source).items():
        start = 0
        for name in names:
            old = source.tensors[name]
            turned = by_token(old, found.vocabulary[name])
            width = turned.numel // turned.shape[0]
            filled = _filled(rows[role][:, start : start + width], used, height, name, turned)
            replaced[name] = by_token(_followed(filled, turned, tokens), found.vocabulary[name])
            start += width
    config, generation = copy.deepcopy(source.config), source.generation_config
    if special_ids is not None:
        config = with_ids(config, special_ids, moved or {})
        generation = generation and with_ids(generation, special_ids, moved or {})
    set_vocabulary(config, height)
    positions = _move_positions(source, config)
    return source.derive(
        replaced=replaced | positions,
        config=config,
        generation_config=generation,
        tokenizer_folder=tokenizer_folder,
    )


def by_token(tensor: LazyTensor, axis: int) -> LazyTensor:
    """``tensor`` with its dimension ``axis`` first, or put back from there: the dimensions before it trade places."""
    if axis == 0:
        return tensor
    shape = list(tensor.shape)
    shape[0], shape[axis] = shape[axis], shape[0]
    return LazyTensor(
        tuple(shape), tensor.dtype, lambda: tensor.load().transpose(0, axis).contiguous(), origin=tensor.origin
    )


def _followed(filled: LazyTensor, old: LazyTensor, tokens: int) -> LazyTensor:
    """``filled`` with those rows of ``old`` behind it that follow the source's ``tokens`` and belong to none."""
    more = old.shape[0] - tokens
    if more <= 0:
        return filled

    def load() -> Tensor:
        return torch.cat([filled.load(), old.flat(tokens * width, old.numel).reshape(more, *old.shape[1:])])

    width = old.numel // old.shape[0]
    return LazyTensor((filled.shape[0] + more, *old.shape[1:]), old.dtype, load, origin=filled.origin)


def _filled(values: Tensor, used: Tensor, height: int, name: str, old: LazyTensor) -> LazyTensor:
    """``values`` (rows, width) in the shape that ``old`` has but for its ``height``, filled up as it is read.

    A filled copy of 50,257 rows of a 7B model is 0.4 GB, of its head as much again.
    """
    origin = f"the new rows of {name}"
    if len(used) == height:  # no hole, and no mean to be taken
        return LazyTensor.of(values.reshape(-1, *old.shape[1:]).to(old.dtype), origin)
    total = torch.zeros(values.shape[1], dtype=torch.float64)
    for part in blocks(len(used), max(1, values.shape[1])):
        total += values[used[part]].float().sum(dim=0)
    mean = (total / len(used)).to(values.dtype)
    unused = torch.ones(height, dtype=torch.bool)
    unused[used] = False

    def rows(start: int, stop: int) -> Tensor:
        block, held = mean.repeat(stop - start, 1), values[start:stop]
        block[: len(held)] = held
        block[unused[start:stop]] = mean
        return block.reshape(-1, *old.shape[1:]).to(old.dtype)

    return LazyTensor((height, *old.shape[1:]), old.dtype, lambda: rows(0, height), rows, origin)


def _move_positions(source: Checkpoint, config: PretrainedConfig) -> dict[str, LazyTensor]:
    """The position tables of models that count positions from the padding id (RoBERTa), and their size in ``config``.

    Position i has row pad_token_id + 1 + i there: with another padding id the table moves along. A table of the same
    size that counts from zero (LUKE's, of entities) gains zero rows at its end, or loses some.
    """
    before = anatomy(source.config)
    tables = position_tables(before, config)
    if not tables:
        return {}
    by = config.get_text_config().pad_token_id - (source.config.get_text_config().pad_token_id or 0)
    config.get_text_config().max_position_embeddings += by
    homes = {name.rpartition(".")[0] for name in tables}
    changed = (
        name
        for name, shape in anatomy(config).shapes.items()
        if name not in before.vocabulary and shape != before.shapes[name]
    )
    return {name: _moved(source.tensors[name], by, at_end=name.rpartition(".")[0] not in homes) for name in changed}


def _moved(table: LazyTensor, by: int, *, at_end: bool) -> LazyTensor:
    """``table`` with ``by`` zero rows put before it, or with that many cut off where ``by`` is negative."""

    def load() -> Tensor:
        rows = table.load()
        more = rows.new_zeros(max(by, 0), *rows.shape[1:])
        if at_end:
            return torch.cat([rows[: len(rows) + min(by, 0)], more])
        return torch.cat([more, rows[max(-by, 0) :]])

    return LazyTensor((table.shape[0] + by, *table.shape[1:]), table.dtype, load, origin=table.origin)
