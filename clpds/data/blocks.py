"""Read blocks that `clpds data` wrote: memory-mapped, a batch at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import datasets
import numpy as np
import torch
from torch import Tensor

from clpds import provenance
from clpds.data.read import load_saved
from clpds.errors import UserError

FORMAT = 1  # of a data folder; another number in its provenance.json is refused
IGNORED = -100  # label of what is not predicted
AnyBatch = TypeVar("AnyBatch", bound=tuple[Tensor, ...])


class Batch(NamedTuple):
    """Blocks as a model takes them, each an int64 tensor (B, N) but for the last."""

    input_ids: Tensor
    position_ids: Tensor
    """Restart at 0 at each document, and so say who may see whom."""
    labels: Tensor
    """``input_ids`` with -100 where nothing of the same document stands before, and at padding.
    Of labelled texts: the class at the first place, -100 elsewhere."""
    language_ids: Tensor
    """(B,): the corpus's language, 0 the source's and 1 the new one, to models that have embeddings of languages."""


def on_device(batch: AnyBatch, device: torch.device) -> AnyBatch:
    """The batch with all its tensors there."""
    return type(batch)(*(tensor.to(device, non_blocking=True) for tensor in batch))


class Blocks:
    """One split of a data folder. ``len()`` is the number of blocks."""

    def __init__(self, folder: Path, dataset: datasets.Dataset, language: int = 1, *, single: bool = False) -> None:
        self.folder = folder
        self.tokenizer_folder = folder / "tokenizer"
        self.sequence_length: int = dataset.features["input_ids"].length
        self.fingerprint: str = dataset._fingerprint
        """Changes when the data does; equal for equal data."""
        self.language = language
        self.single = single
        """Whether each block has one document, or a piece of one."""
        self._dataset = dataset  # keeps the files mapped
        batches = dataset.data.to_batches()
        self._first = np.cumsum([0, *(len(batch) for batch in batches)])
        self._ids = [batch["input_ids"].flatten().to_numpy().reshape(-1, self.sequence_length) for batch in batches]
        self._ends = [(batch["ends"].offsets.to_numpy(), batch["ends"].values.to_numpy()) for batch in batches]
        label = dataset.features.get("label")
        self.classes: tuple[str, ...] = tuple(label.names) if label else ()
        """Of labelled texts, each of which is a block."""
        self._labels = [batch["label"].to_numpy() for batch in batches] if label else []
        self._bytes = [batch["predicted_bytes"].to_numpy() for batch in batches]

    def __len__(self) -> int:
        return int(self._first[-1])

    def batch(self, indices: Sequence[int], *, isolate: bool = True) -> Batch:
        """The blocks ``indices``, in that order.

        Without ``isolate`` a block is one text: positions run through to the padding, and only its
        first token and the padding have no label.
        """
        ids = np.empty((len(indices), self.sequence_length), np.int64)
        positions = np.empty_like(ids)
        labels = np.empty_like(ids)
        places = np.arange(self.sequence_length)
        for row, index in enumerate(indices):
            batch, offset = self._locate(index)
            offsets, values = self._ends[batch]
            ends = values[offsets[offset] : offsets[offset + 1]]
            starts = _starts(ends if isolate else ends[-1:], self.sequence_length)
            ids[row] = self._ids[batch][offset]
            positions[row] = places - np.repeat(starts, np.diff(starts, append=self.sequence_length))
            labels[row] = ids[row]
            labels[row, starts] = IGNORED
            labels[row, ends[-1] :] = IGNORED
            if self.classes:
                labels[row] = IGNORED
                labels[row, 0] = self._labels[batch][offset]
        languages = np.full(len(indices), self.language, np.int64)
        return Batch(*(torch.from_numpy(array) for array in (ids, positions, labels, languages)))

    def predicted_bytes(self, indices: Sequence[int]) -> int:
        """Bytes of UTF-8 text that the labelled tokens of these blocks stand for, documents isolated."""
        return sum(int(self._bytes[batch][offset]) for batch, offset in map(self._locate, indices))

    def _locate(self, index: int) -> tuple[int, int]:
        """Record batch, and row in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        batch = int(np.searchsorted(self._first, index, side="right")) - 1
        return batch, index - int(self._first[batch])


def _starts(ends: np.ndarray, length: int) -> np.ndarray:
    """Where documents, and the padding as if it were one, begin in a block, ascending from 0."""
    starts = np.concatenate(([0], ends))
    return starts[starts < length]


def open_blocks(folder: Path, split: str, language: int = 1) -> Blocks:
    """Open the split ``train`` or ``validation`` of a folder that `clpds data` wrote; nothing is read yet.

    ``language`` is 0 for the source's and 1 for the new one.
    Raises UserError where the folder is something else, was written in another format, or lacks the split.
    """
    record, dataset = open_split(folder, split, verb="data", written_as=FORMAT)
    parameters = record["parameters"]
    single = bool(parameters.get("one_document") or parameters.get("label_key"))
    return Blocks(folder, dataset, language, single=single)


def open_split(folder: Path, split: str, *, verb: str, written_as: int) -> tuple[dict[str, Any], datasets.Dataset]:
    """The record of a folder that ``verb`` wrote in the format ``written_as``, and a split of it, memory-mapped."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; write it with `clpds {verb}`")
    document = provenance.read(folder) or {}
    if document.get("verb") != verb:
        raise UserError(f"{folder} is no {verb} folder; write one with `clpds {verb}`")
    if document.get("format") != written_as:
        raise UserError(f"{folder} has format {document.get('format')}, this clpds reads {written_as}; write it again")
    if not (folder / split).is_dir():
        there = ", ".join(name for name in ("train", "validation") if (folder / name).is_dir())
        raise UserError(f"{folder} has no split '{split}', only {there}; see --validation-fraction of `clpds {verb}`")
    return document, load_saved(folder / split)
