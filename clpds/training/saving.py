"""Training checkpoints: written whole or not at all, found again, kept few.

``RUN/checkpoints/step-00000100/`` holds DeepSpeed's files, ``trainer.json`` and ``manifest.json``;
``latest`` names the newest. A checkpoint is written as ``.partial`` and renamed when every rank is
done, so a name without ``.partial`` is whole, and ``latest`` never names an incomplete one.
"""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from clpds import provenance
from clpds.errors import UserError
from clpds.manifest import hash_files, write_manifest
from clpds.output import replace_folder, sync_folder, write_text
from clpds.recipe import Train
from clpds.run_folder import LATEST, TRAINER, read_trainer, whole_checkpoints
from clpds.training.group import on_first_rank


@dataclass
class Position:
    """How far a run is: all the state that is not DeepSpeed's."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Predicted tokens seen."""


def save(engine: Any, stage: Train, identity: dict[str, Any], position: Position) -> None:
    """Write the checkpoint of ``position`` together with all ranks and drop the oldest ones."""
    folder = stage.out / "checkpoints"
    name = f"step-{position.step:08d}"
    partial = folder / f"{name}.partial"
    on_first_rank(lambda: shutil.rmtree(partial, ignore_errors=True))
    engine.save_checkpoint(str(folder), tag=partial.name, save_latest=False, exclude_frozen_parameters=False)
    hashes: list[dict[str, tuple[int, str]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(hashes, hash_files(_own_files(partial)))

    def finish() -> None:
        document = {
            "step": position.step,
            "tokens": position.tokens,
            "world_size": dist.get_world_size(),
            "finished": position.step >= stage.steps,
            "stage": provenance.parameters(stage),
            "identity": identity,
        }
        (partial / TRAINER).write_text(json.dumps(document, indent=2) + "\n")
        files = {file: entry for rank in hashes for file, entry in rank.items()}
        write_manifest(partial, files | hash_files([partial / TRAINER]))
        sync_folder(partial)
        replace_folder(partial, folder / name)
        write_text(folder / LATEST, name + "\n")
        for old in whole_checkpoints(stage.out)[: -stage.saving.keep_last]:
            delete(old)

    on_first_rank(finish)


def delete(checkpoint: Path) -> None:
    """Remove a checkpoint; its manifest goes first, so that half a checkpoint never looks whole."""
    (checkpoint / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def find_checkpoint(run: Path, identity: dict[str, Any]) -> Path | None:
    """The newest whole checkpoint to resume from, or None; UserError where it is of another identity."""
    whole = whole_checkpoints(run)
    if not whole:
        return None
    before = read_trainer(whole[-1])["identity"]
    changed = [key for key, now in identity.items() if before.get(key) != now]
    if changed:
        raise UserError(f"{run} was started with another {changed[0]}; choose another out, or remove the folder")
    return whole[-1]


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
