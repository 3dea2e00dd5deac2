"""Checkpoints of any shape with random weights, made tensor by tensor, so that a 7B one needs no memory."""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, PretrainedConfig

from clpds.checkpoint.anatomy import anatomy
from clpds.checkpoint.lazy import Checkpoint, LazyTensor
from clpds.checkpoint.write import write_checkpoint
from clpds.recipe import Convert

# Numbers drawn once, then repeated: a 7B's would take minutes. A prime, so that no two rows agree.
PERIOD = 4_194_301
SMOLLM2_135M = LlamaConfig(
    vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)  # fmt: skip


def random_checkpoint(
    folder: Path,
    config: PretrainedConfig,
    dtype: torch.dtype = torch.float32,
    *,
    tokenizer: Path | None = None,
    given: Mapping[str, Tensor] | None = None,
    shard: str = "5GB",
) -> Path:
    """A folder that ``from_pretrained`` opens, of the config's shape, written once.

    N(0, 0.02) in every tensor but those ``given``, by the names of the model class.
    """
    if (folder / "config.json").is_file():
        return folder
    checkpoint = replace(random_weights(config, dtype), tokenizer_folder=tokenizer)
    tensors = {
        **checkpoint.tensors,
        **{name: LazyTensor.of(tensor.to(dtype)) for name, tensor in (given or {}).items()},
    }
    step, card = Convert(model=folder, out=folder), "Random weights.\n"
    checkpoint = replace(checkpoint, tensors=tensors)
    write_checkpoint(checkpoint, folder, step, inputs={}, card=card, dtype=dtype, max_shard_size=shard)
    return folder


def random_weights(config: PretrainedConfig, dtype: torch.dtype) -> Checkpoint:
    """N(0, 0.02) in every tensor, made when it is asked for, the same each time."""
    return Checkpoint({name: _random(name, shape, dtype) for name, shape in anatomy(config).shapes.items()}, config)


def _random(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> LazyTensor:
    def load() -> Tensor:
        count = prod(shape)
        some = _numbers(dtype).roll(-zlib.crc32(name.encode()))
        return some.repeat(-(-count // PERIOD))[:count].view(shape)

    return LazyTensor(shape, dtype, load, origin="random")


@cache
def _numbers(dtype: torch.dtype) -> Tensor:
    """(PERIOD,) from which every tensor takes its own, beginning elsewhere."""
    return (torch.randn(PERIOD, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
