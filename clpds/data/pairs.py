"""Read pairs that `clpds pairs` wrote: memory-mapped, a batch at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch import Tensor

from clpds.data.blocks import IGNORED, open_split

FORMAT = 1  # of a pairs folder; another number in its provenance.json is refused


class PairBatch(NamedTuple):
    """Sentences that are read in one language and written in another, or in one and the same.

    All are padded to N tokens: (B, N), but for the languages, (B,), 0 the source's and 1 the new one.
    """

    input_ids: Tensor
    attention_mask: Tensor
    """True for tokens; the dummy behind a source is padding."""
    language_ids: Tensor
    alignment: Tensor
    """The place in the source that each place of the target starts from."""
    target_mask: Tensor
    target_language_ids: Tensor
    labels: Tensor
    """Ids of the target, -100 at its padding."""
    translated: Tensor
    """(B,): False where the sentence itself is the target, from which tokens are to be hidden."""


class Pairs:
    """One split of a pairs folder: every pair, and behind them the new language's sentence of each."""

    def __init__(self, folder: Path, dataset: datasets.Dataset, sequence_length: int, *, reverse: bool) -> None:
        self.folder = folder
        self.tokenizer_folder = folder / "tokenizer"
        self.sequence_length = sequence_length
        self.fingerprint: str = dataset._fingerprint
        """Changes when the data does; equal for equal data."""
        self.classes: tuple[str, ...] = ()
        """None: these are no labelled texts."""
        self.single = True
        self.reverse = reverse
        """Whether the new language is read, not written."""
        self._dataset = dataset.with_format("numpy")

    def __len__(self) -> int:
        return 2 * len(self._dataset)

    def batch(self, indices: Sequence[int], *, isolate: bool = True) -> PairBatch:
        """The samples ``indices``, in that order; a row never holds more than one."""
        rows = [self._row(index) for index in indices]
        return PairBatch(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))

    def predicted_bytes(self, indices: Sequence[int]) -> int:
        """0: nothing here is predicted from what stands before it."""
        return 0

    def _row(self, index: int) -> tuple[Any, ...]:
        again, place = divmod(index, len(self._dataset))
        pair = self._dataset[place]
        source, target, alignment = (pair[name].astype(np.int64) for name in ("source", "target", "alignment"))
        padding = source[-1]
        old, new = int(self.reverse), int(not self.reverse)
        if again:
            target = source[:-1] if self.reverse else target
            source, alignment, old, new = target, np.arange(len(target)), 1, 1
        size = self.sequence_length
        read = len(source) - (not again)  # without the dummy
        places = np.arange(size)
        return (
            _padded(source, size, padding),
            places < read,
            np.int64(old),
            # Padding starts from the dummy, or is left where it stands.
            np.concatenate([alignment, places[len(target) :] if again else np.full(size - len(target), read)]),
            places < len(target),
            np.int64(new),
            _padded(target, size, IGNORED),
            np.bool_(not again),
        )


def open_pairs(folder: Path, split: str) -> Pairs:
    """Open the split ``train`` or ``validation`` of a folder that `clpds pairs` wrote; nothing is read yet.

    Raises UserError where the folder is something else, was written in another format, or lacks the split.
    """
    document, dataset = open_split(folder, split, verb="pairs", written_as=FORMAT)
    return Pairs(folder, dataset, document["sequence_length"], reverse=document["parameters"]["reverse"])


def _padded(ids: np.ndarray, size: int, value: int) -> np.ndarray:
    return np.pad(ids, (0, size - len(ids)), constant_values=value)
