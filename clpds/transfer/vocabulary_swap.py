"""Give a model another vocabulary: new rows for every tensor that has one a token, the rest untouched.

What a method that swaps a vocabulary has to supply is ``Rows``.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig

from clpds.checkpoint import Checkpoint, LazyTensor, anatomy
from clpds.checkpoint.safetensors import is_finite
from clpds.errors import UserError
from clpds.transfer.positions import count_positions_from
from clpds.vocabulary.blocks import blocks

Role = Literal["input", "output"]
Rows = Callable[[Tensor, Role], Tensor]
"""A method: the source's rows (V_s, c) of a role -> the target's (rows, c), same dtype.

Every column is a value a token has: the dimensions of the embedding or of the head, and the head's
biases. Rows of ids that the target tokenizer does not use may hold anything.
"""
AnyConfig = TypeVar("AnyConfig", PretrainedConfig, GenerationConfig)


def parts(checkpoint: Checkpoint) -> dict[Role, list[str]]:
    """The vocabulary's tensors by role, the matrix first, then biases.

    A tied head has no role of its own: its biases go with the matrix it shares.
    """
    found = anatomy(checkpoint.config)
    head: Role = "output" if found.output_embedding else "input"
    names: dict[Role, list[str]] = {"input": [found.input_embedding]}
    if found.output_embedding:
        names["output"] = [found.output_embedding]
    names[head] += [name for name in found.vocabulary if len(found.shapes[name]) == 1]
    return names


def read_rows(checkpoint: Checkpoint, names: list[str], ids: Tensor | None = None) -> Tensor:
    """The tensors side by side, a row a token: (V, c), c the width of the matrix plus one a bias.

    With ``ids``, int64 and ascending, only these rows, (len(ids), c); memory follows what is kept.
    Raises UserError that names the tensor, its file and the row of a NaN or infinity, wherever it is.
    """
    columns = []
    for name in names:
        lazy = checkpoint.tensors[name]
        height, width = lazy.shape[0], lazy.numel // lazy.shape[0]
        wanted = torch.arange(height) if ids is None else ids
        column = torch.empty(len(wanted), width, dtype=lazy.dtype)
        whole = lazy.load() if lazy.rows is None else None
        for part in blocks(height, width):
            block = whole[part] if whole is not None else lazy.rows(part.start, part.stop)  # type: ignore[misc]
            block = block.reshape(-1, width)
            if not is_finite(block):
                row = part.start + int((~block.isfinite().all(dim=1)).nonzero()[0])
                raise UserError(f"{lazy.origin or checkpoint.path}: row {row} of {name} holds NaN or infinity")
            first, last = torch.searchsorted(wanted, torch.tensor([part.start, part.stop])).tolist()
            column[first:last] = block[wanted[first:last] - part.start]
        columns.append(column)
    return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)


def swap_vocabulary(
    source: Checkpoint,
    rows: Mapping[Role, Tensor],
    *,
    used: Tensor,
    special_ids: Mapping[str, int] | None,
    tokenizer_folder: Path,
    pad_to: int = 1,
) -> Checkpoint:
    """``source`` with ``rows`` of each role for its vocabulary, the target's tokenizer and special ids.

    With ``special_ids`` None, those of the source's config stay. ``used`` are the ids that are tokens.
    All other rows, holes and those that round the number up to a multiple of ``pad_to``, get the mean of
    the rows in use: their logit is then the mean logit, which is never the highest, while a zero or
    random row can win the softmax.
    """
    replaced: dict[str, LazyTensor] = {}
    height = -(-len(rows["input"]) // pad_to) * pad_to
    for role, names in parts(source).items():
        start = 0
        for name in names:
            old = source.tensors[name]
            width = old.numel // old.shape[0]
            replaced[name] = _filled(rows[role][:, start : start + width], used, height, name, old)
            start += width
    config, generation = copy.deepcopy(source.config), source.generation_config
    if special_ids is not None:
        config, generation = _with_ids(config, special_ids), generation and _with_ids(generation, special_ids)
    config.get_text_config().vocab_size = height
    positions = count_positions_from(source, config)
    return source.derive(
        replaced=replaced | positions,
        config=config,
        generation_config=generation,
        tokenizer_folder=tokenizer_folder,
    )


def _filled(values: Tensor, used: Tensor, height: int, name: str, old: LazyTensor) -> LazyTensor:
    """``values`` (rows, width) in the shape that ``old`` has but for its ``height``, filled up as it is read.

    A filled copy of 50,257 rows of a 7B model is 0.4 GB, of its head as much again.
    """
    origin = f"the new rows of {name}"
    if len(used) == height:  # no hole, and no mean to be taken
        return LazyTensor.of(values.reshape(-1, *old.shape[1:]).to(old.dtype), origin)
    total = torch.zeros(values.shape[1], dtype=torch.float64)
    for part in blocks(len(used), values.shape[1]):
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


def _with_ids(config: AnyConfig, special_ids: Mapping[str, int]) -> AnyConfig:
    """A copy whose special ids are the target's; None for a role that the target does not fill."""
    config = copy.deepcopy(config)
    for key in [key for key in vars(config) if key.endswith("_token_id")]:
        setattr(config, key, special_ids.get(key))
    return config
