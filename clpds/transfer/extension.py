"""Extend a model's vocabulary in place of replacing it, whatever method made the new rows."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from clpds.checkpoint import Checkpoint
from clpds.transfer.models import Models
from clpds.transfer.vocabulary_swap import Role, swap_vocabulary
from clpds.vocabulary.extend import extend, save_extended


def extend_vocabulary(
    models: Models, rows: Mapping[Role, Tensor], *, pad_to: int = 1
) -> tuple[Checkpoint, dict[str, int]]:
    """The source with those of the target's ``rows`` (rows, c) behind its own that its tokenizer can be made to use.

    The source's tokens keep their ids and, bit for bit, their rows; its special tokens stay in their roles.
    Also returns how many tokens were kept, added and left out.
    """
    extension = extend(models.source_tokenizer, models.target_tokenizer, models.shared.missing.tolist())
    first, added = extension.first, torch.tensor(extension.added, dtype=torch.long)
    both = {role: torch.cat([old[:first], rows[role][added]]) for role, old in models.rows.items()}
    folder = tempfile.TemporaryDirectory(prefix="clpds-tokenizer-")
    assert models.source.tokenizer_folder is not None  # open_models
    save_extended(extension, models.source_tokenizer, models.source.tokenizer_folder, Path(folder.name))
    result = swap_vocabulary(
        models.source,
        both,
        used=torch.arange(first + len(added)),
        special_ids=None,
        tokenizer_folder=Path(folder.name),
        pad_to=pad_to,
    )
    result = replace(result, keep_alive=(models.source.keep_alive, folder))
    return result, {"kept": first, "added": len(added), "left_out": extension.left_out}
