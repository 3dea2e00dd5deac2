"""A checkpoint is a lazy mapping from names to tensors, plus a config and a tokenizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read or computed when asked for, and not kept."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]
    """Returns the whole tensor, of this shape and dtype, on the CPU."""
    rows: Callable[[int, int], Tensor] | None = None
    """Returns ``load()[start:stop]`` while reading only those bytes, where the storage can."""
    origin: str = ""
    """Where it comes from, for error messages: a file name, or what computes it."""
    stored: tuple[Path, str] | None = None
    """The safetensors file that holds just this, and its name there; None for what is computed."""

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def flat(self, start: int, stop: int) -> Tensor:
        """Elements ``start:stop`` of the row-major flat tensor (1-D), reading only the rows they lie in."""
        if self.rows is None or not self.shape or not self.numel:
            return self.load().reshape(-1)[start:stop]
        width = self.numel // self.shape[0]
        first, last = start // width, -(-stop // width)
        return self.rows(first, last).reshape(-1)[start - first * width : stop - first * width]

    def to(self, dtype: torch.dtype) -> "LazyTensor":
        """The same values cast to ``dtype`` when they are read; integers stay as they are."""
        if dtype == self.dtype or not self.dtype.is_floating_point:
            return self
        rows = self.rows
        return replace(
            self,
            dtype=dtype,
            load=lambda: self.load().to(dtype),
            rows=None if rows is None else lambda start, stop: rows(start, stop).to(dtype),
            stored=None,
        )

    @staticmethod
    def of(tensor: Tensor, origin: str = "") -> "LazyTensor":
        """A tensor that is in memory already."""
        return LazyTensor(
            tuple(tensor.shape), tensor.dtype, lambda: tensor, lambda start, stop: tensor[start:stop], origin
        )


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by the names of the model class's ``state_dict`` (tied names once), config, tokenizer."""

    tensors: Mapping[str, LazyTensor]
    config: PretrainedConfig
    generation_config: GenerationConfig | None = None
    tokenizer_folder: Path | None = None
    """Folder whose tokenizer files belong to this checkpoint."""
    path: Path | None = None
    """Where it was opened from."""
    part: bool = False
    """Whether it is the language model of a composite, whose other tensors are left where they are."""
    keep_alive: Any = field(default=None, repr=False, compare=False)
    """Temporary files that the tensors or the tokenizer live in."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def derive(
        self,
        *,
        replaced: Mapping[str, LazyTensor] | None = None,
        added: Mapping[str, LazyTensor] | None = None,
        dropped: tuple[str, ...] = (),
        renamed: Mapping[str, str] | None = None,
        config: PretrainedConfig | None = None,
        generation_config: GenerationConfig | None = None,
        tokenizer_folder: Path | None = None,
    ) -> "Checkpoint":
        """A new checkpoint that differs in the tensors and files named; nothing is read.

        ``dropped`` and ``renamed`` speak of the names here, ``replaced`` and ``added`` of the new ones.
        Raises KeyError for a name to replace, drop or rename that is not there, or to add that is.
        """
        renamed, replaced, added = renamed or {}, replaced or {}, added or {}
        if unknown := [name for name in (*dropped, *renamed) if name not in self.tensors]:
            raise KeyError(f"no tensor {unknown[0]} to drop or rename")
        kept = [(renamed.get(name, name), tensor) for name, tensor in self.tensors.items() if name not in dropped]
        tensors = dict(kept)
        if len(tensors) < len(kept):
            raise KeyError(f"two tensors would have one name: {', '.join(renamed.values())}")
        if unknown := [name for name in replaced if name not in tensors]:
            raise KeyError(f"no tensor {unknown[0]} to replace")
        if clash := [name for name in added if name in tensors]:
            raise KeyError(f"cannot add {clash[0]}: it exists")
        tensors |= {**replaced, **added}
        return replace(
            self,
            tensors=tensors,
            config=config or self.config,
            generation_config=generation_config or self.generation_config,
            tokenizer_folder=tokenizer_folder or self.tokenizer_folder,
        )
