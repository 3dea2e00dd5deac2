"""What DeepSpeed saves on this rank, taken from its engine to be written at any time, and brought to the disk."""

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clpds.output import naming


def files_of(engine: Any, folder: Path, *, copied: bool) -> dict[Path, Any]:
    """Make ``folder`` with all ranks and return what DeepSpeed would write into it here: a file's path and object.

    The tensors are the engine's own, or with ``copied`` copies in memory that further steps leave alone.
    Nothing is written, so that no rank can fail inside of ``save_checkpoint`` and leave the others in its barriers,
    for half an hour.
    """
    files: dict[Path, Any] = {}
    writer, usual = engine.checkpoint_engine, engine.checkpoint_engine.save

    def save(state_dict: Any, path: str) -> None:
        files[Path(path)] = _copied(state_dict) if copied else state_dict

    writer.save = save
    engine._copy_recovery_script = lambda folder: None  # a file of DeepSpeed's; `clpds convert` does what it does
    try:
        engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False, exclude_frozen_parameters=False)
    finally:
        writer.save = usual
    return files


def write(files: dict[Path, Any]) -> None:
    """Write each object and wait until it is on the disk. OSError with the file's name where the system refuses."""
    for path, state in files.items():
        with naming(path), path.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # of the archive's end, which cannot be written either
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
            file.flush()
            os.fsync(file.fileno())


def _copied(value: Any) -> Any:
    """The same with all tensors copied to memory, from whatever device."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        new = copy.copy(value)  # an OrderedDict stays one
        new.update((key, _copied(item)) for key, item in value.items())
        return new
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return copy.deepcopy(value)
