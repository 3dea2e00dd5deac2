"""Training checkpoints: written whole or not at all, kept few.

``RUN/checkpoints/step-00000100/`` holds DeepSpeed's files, ``trainer.json`` and ``manifest.json``;
``latest`` names the newest. A checkpoint is written as ``.clpds-partial`` and renamed when every rank is
done, so a name without that is whole, and ``latest`` never names an incomplete one. The hashes
in the manifest are compared before a checkpoint is resumed from.
"""

import json
import re
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch.distributed as dist

from clpds import provenance
from clpds.errors import UserError
from clpds.manifest import hash_files, write_manifest, written_names
from clpds.output import replace_folder, sync, write_text
from clpds.recipe import Train
from clpds.run_folder import LATEST, TRAINER, whole_checkpoints
from clpds.training.group import agree, on_first_rank
from clpds.training.writing import files_of, write

Hashes = dict[str, tuple[int, str]]
"""Size and hash, by a file's name."""


@dataclass
class Position:
    """How far a run is: all the state that is not DeepSpeed's."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Predicted tokens seen."""


class Saver:
    """Writes a run's checkpoints, one at a time: while the loop waits, or beside it where the stage says so.

    Beside it, a rank copies its part of the state to memory, 12 to 16 bytes a parameter divided by the ranks, and a
    thread writes that. All methods but ``written`` are called by all ranks together. As a context it finishes what
    was begun, unless it is left by an error that other ranks may not have.
    """

    def __init__(self, engine: Any, stage: Train, identity: dict[str, Any]) -> None:
        self.engine, self.stage, self.identity = engine, stage, identity
        self.folder = stage.out / "checkpoints"
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: tuple[Position, Future[Hashes]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, UserError):
            self.finish()

    def save(self, position: Position) -> None:
        """Write the checkpoint of ``position``, or begin to. Raises what ``finish`` does, for the one before too."""
        self.finish()
        partial = self._partial(position)
        on_first_rank(lambda: shutil.rmtree(partial, ignore_errors=True))
        files = files_of(self.engine, partial, copied=self.stage.saving.asynchronous)

        def write_own() -> Hashes:
            write(files)
            return hash_files(_own_files(partial))

        self.pending = replace(position), self.thread.submit(write_own)
        if not self.stage.saving.asynchronous:
            self.finish()

    def written(self) -> bool:
        """Whether this rank's part of a checkpoint is on the disk, and waits for the other ranks' and ``finish``."""
        return self.pending is not None and self.pending[1].done()

    def finish(self) -> None:
        """Wait until what was begun is written on all ranks, make it a checkpoint, and drop the oldest ones.

        Raises UserError on all ranks where a disk is full or fails; the checkpoints before stand.
        """
        if self.pending is None:
            return
        (position, own), self.pending = self.pending, None
        partial = self._partial(position)
        try:
            hashes: list[Hashes] = [{}] * dist.get_world_size()
            dist.all_gather_object(hashes, agree(own.result))
            files = {file: entry for rank in hashes for file, entry in rank.items()}
            on_first_rank(lambda: self._complete(position, partial, files))
        except UserError as error:
            on_first_rank(lambda: shutil.rmtree(partial, ignore_errors=True))
            where = partial.with_suffix("")
            raise UserError(f"{where} cannot be saved ({error}); the same command goes on from before") from error

    def _complete(self, position: Position, partial: Path, files: Hashes) -> None:
        document = {
            "step": position.step,
            "tokens": position.tokens,
            "world_size": dist.get_world_size(),
            "finished": position.step >= self.stage.steps,
            "stage": provenance.parameters(self.stage),
            "identity": self.identity,
        }
        write_text(partial / TRAINER, json.dumps(document, indent=2) + "\n")
        write_manifest(partial, files | hash_files([partial / TRAINER]))
        sync(partial)
        replace_folder(partial, partial.with_suffix(""))
        write_text(self.folder / LATEST, f"{partial.stem}\n")
        for old in whole_checkpoints(self.stage.out)[: -self.stage.saving.keep_last]:
            _delete(old)

    def _partial(self, position: Position) -> Path:
        return self.folder / f"step-{position.step:08d}.clpds-partial"


def _delete(checkpoint: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that half a checkpoint never looks whole.

    One that somebody has put elsewhere and linked, or into which they have put files, stays.
    """
    if checkpoint.is_symlink() or {file.name for file in checkpoint.iterdir()} - written_names(checkpoint):
        sys.stderr.write(f"{checkpoint} is kept: it is a link, or has files that no training wrote\n")
        return
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}.clpds-old")))


def _own_files(folder: Path) -> list[Path]:
    """The files this rank wrote: those that bear its number; rank 0 answers for the rest."""
    own = []
    for file in sorted(folder.iterdir()):
        match = re.search(r"zero_pp_rank_(\d+)_", file.name)
        if (int(match[1]) if match else 0) == dist.get_rank():
            own.append(file)
    return own
