"""Checkpoints of any shape with random weights, made tensor by tensor, so that a 7B one needs no memory."""

import zlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig

from clpds.checkpoint.anatomy import anatomy
from clpds.checkpoint.lazy import Checkpoint, LazyTensor
from clpds.checkpoint.write import write_checkpoint
from clpds.recipe import Convert


def random_checkpoint(
    folder: Path, config: PretrainedConfig, dtype: torch.dtype = torch.float32, *, tokenizer: Path | None = None
) -> Path:
    """A folder that ``from_pretrained`` opens, of the config's shape, written once; N(0, 0.02) in every tensor."""
    if (folder / "config.json").is_file():
        return folder
    step = Convert(model=folder, out=folder)
    checkpoint = replace(random_weights(config, dtype), tokenizer_folder=tokenizer)
    write_checkpoint(checkpoint, folder, step, inputs={}, card="Random weights.\n", dtype=dtype)
    return folder


def random_weights(config: PretrainedConfig, dtype: torch.dtype) -> Checkpoint:
    """N(0, 0.02) in every tensor, drawn when it is asked for, the same each time."""
    return Checkpoint({name: _random(name, shape, dtype) for name, shape in anatomy(config).shapes.items()}, config)


def _random(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> LazyTensor:
    def load() -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return (torch.randn(shape, generator=generator) * 0.02).to(dtype)

    return LazyTensor(shape, dtype, load, origin="random")
