"""Training checkpoints: written whole or not at all, found again, kept few.

``RUN/checkpoints/step-00000100/`` holds DeepSpeed's files, ``trainer.json`` and ``manifest.json``;
``latest`` names the newest. A checkpoint is written as ``.partial`` and renamed when every rank is
done, so a name without ``.partial`` is whole, and ``latest`` never names an incomplete one. The hashes
in the manifest are compared before a checkpoint is resumed from.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from clpds import manifest, provenance
from clpds.errors import UserError
from clpds.manifest import check_manifest, hash_files, write_manifest
from clpds.output import naming, replace_folder, sync, write_text
from clpds.recipe import Train
from clpds.run_folder import LATEST, TRAINER, problems, read_trainer, whole_checkpoints
from clpds.training.group import agree, on_first_rank

LEFT = re.compile(r"step-\d{8}\.(partial|old|universal)")  # by a start that was killed


@dataclass
class Position:
    """How far a run is: all the state that is not DeepSpeed's."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Predicted tokens seen."""


def save(engine: Any, stage: Train, identity: dict[str, Any], position: Position) -> None:
    """Write the checkpoint of ``position`` together with all ranks and drop the oldest ones.

    Raises UserError on all ranks where a disk is full or fails; the checkpoints before stand.
    """
    folder = stage.out / "checkpoints"
    name = f"step-{position.step:08d}"
    partial = folder / f"{name}.partial"
    try:
        _save(engine, stage, identity, position, partial)
    except UserError as error:
        on_first_rank(lambda: shutil.rmtree(partial, ignore_errors=True))
        raise UserError(f"{folder / name} cannot be saved ({error}); the same command goes on from before") from error


def _save(engine: Any, stage: Train, identity: dict[str, Any], position: Position, partial: Path) -> None:
    folder, name = partial.parent, partial.stem
    on_first_rank(lambda: shutil.rmtree(partial, ignore_errors=True))
    with _writing(engine) as refused:
        engine.save_checkpoint(str(folder), tag=partial.name, save_latest=False, exclude_frozen_parameters=False)

    def hash_own() -> dict[str, tuple[int, str]]:
        for error in refused:
            raise error
        return hash_files(_own_files(partial))

    hashes: list[dict[str, tuple[int, str]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(hashes, agree(hash_own))

    def finish() -> None:
        document = {
            "step": position.step,
            "tokens": position.tokens,
            "world_size": dist.get_world_size(),
            "finished": position.step >= stage.steps,
            "stage": provenance.parameters(stage),
            "identity": identity,
        }
        write_text(partial / TRAINER, json.dumps(document, indent=2) + "\n")
        files = {file: entry for rank in hashes for file, entry in rank.items()}
        write_manifest(partial, files | hash_files([partial / TRAINER]))
        sync(partial)
        replace_folder(partial, folder / name)
        write_text(folder / LATEST, name + "\n")
        for old in whole_checkpoints(stage.out)[: -stage.saving.keep_last]:
            delete(old)

    on_first_rank(finish)


@contextmanager
def _writing(engine: Any) -> Iterator[list[OSError]]:
    """Let what DeepSpeed writes reach the disk, and collect what the system refuses instead of raising it.

    Raised inside of ``save_checkpoint`` it would leave the other ranks in its barriers, for half an hour.
    """
    refused: list[OSError] = []
    writer, usual = engine.checkpoint_engine, engine.checkpoint_engine.save

    def save(state_dict: Any, path: str) -> None:
        try:
            with naming(Path(path)), Path(path).open("wb") as file:
                try:
                    torch.save(state_dict, file)
                except RuntimeError as error:  # of the archive's end, which cannot be written either
                    raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            refused.append(error)

    writer.save = save
    engine._copy_recovery_script = lambda folder: None  # a file of DeepSpeed's; `clpds convert` does what it does
    try:
        yield refused
    finally:
        writer.save = usual


def delete(checkpoint: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that half a checkpoint never looks whole."""
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}.old")))


def find_checkpoint(run: Path, identity: dict[str, Any]) -> Path | None:
    """The newest whole checkpoint to resume from, or None; UserError where it is of another identity.

    Rank 0 alone calls it. What a start that was killed left half done is removed; a checkpoint that has lost a file
    or a part of one is passed over, aloud.
    """
    there = sorted((run / "checkpoints").glob("step-*"))
    for left in there:
        if LEFT.fullmatch(left.name):
            shutil.rmtree(left)
    (run / "checkpoints" / "latest_universal").unlink(missing_ok=True)
    whole = whole_checkpoints(run)
    for folder in there:
        if (folder / manifest.FILE).exists() and folder not in whole and folder > max(whole, default=run):
            sys.stderr.write(f"{folder} is passed over: {'; '.join(problems(folder))}\n")
    if not whole:
        return None
    before = read_trainer(whole[-1]).get("identity", {})
    changed = [key for key, now in identity.items() if before.get(key) != now]
    if changed:
        raise UserError(f"{run} was started with another {changed[0]}; choose another out, or remove the folder")
    return whole[-1]


def require_sound(checkpoint: Path) -> None:
    """UserError on all ranks, naming the file, unless all bytes are those written; the ranks share the reading.

    To go on from an older one is the user's decision: a disk that changes bytes may have changed others.
    """

    def check() -> None:
        wrong = check_manifest(checkpoint, deep=True, part=(dist.get_rank(), dist.get_world_size()))
        if wrong:
            raise UserError(f"{checkpoint} is damaged: {wrong[0]}; remove it to go on from the one before, if any")

    agree(check)


def universal(checkpoint: Path) -> Path:
    """The checkpoint in DeepSpeed's universal format, for another number of ranks; made by rank 0."""
    out = checkpoint.with_name(f"{checkpoint.name}.universal")

    def make() -> None:
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
        command += ["--input_folder", str(checkpoint), "--output_folder", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{checkpoint} cannot be brought to another number of ranks: {done.stderr[-300:]}")
        (out.parent / "latest_universal").unlink(missing_ok=True)

    on_first_rank(make)
    return out


def load(engine: Any, checkpoint: Path) -> Position:
    """Restore weights and optimizer from ``checkpoint`` (or its universal form) and say where it stood.

    Works round two silent faults of DeepSpeed's universal load (0.19.8, stage3.py): every parameter
    group gets the settings of group 0, and all sub-groups share one ``step`` tensor, which torch's
    AdamW then advances once for each of them.
    """
    optimizer = engine.optimizer.optimizer
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    for state in optimizer.state.values():
        if hasattr(state.get("step"), "clone"):
            state["step"] = state["step"].clone()
    original = checkpoint.with_name(checkpoint.name.removesuffix(".universal"))
    trainer = read_trainer(original)
    if original != checkpoint:
        on_first_rank(lambda: shutil.rmtree(checkpoint))
    return Position(step=trainer["step"], tokens=trainer["tokens"])


def _own_files(folder: Path) -> list[Path]:
    """The files this rank wrote: those that bear its number; rank 0 answers for the rest."""
    own = []
    for file in sorted(folder.iterdir()):
        match = re.search(r"zero_pp_rank_(\d+)_", file.name)
        if (int(match[1]) if match else 0) == dist.get_rank():
            own.append(file)
    return own
