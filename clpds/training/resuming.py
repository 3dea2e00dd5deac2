"""Training checkpoints found again: the newest whole one, whether it is sound, and how it is loaded."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from clpds import manifest
from clpds.errors import UserError
from clpds.manifest import check_manifest
from clpds.run_folder import problems, read_trainer, whole_checkpoints
from clpds.training.changes import changes, said
from clpds.training.group import agree, on_first_rank
from clpds.training.saving import Position

LEFT = re.compile(r"step-\d{8}\.clpds-(partial|old|universal)")  # by a start that was killed


def find_checkpoint(run: Path, identity: dict[str, Any]) -> Path | None:
    """The newest whole checkpoint to resume from, or None; UserError where it is of another identity.

    Rank 0 alone calls it. What a start that was killed left half done is removed; a checkpoint that has lost a file
    or a part of one is passed over, aloud.
    """
    there = sorted((run / "checkpoints").glob("step-*"))
    for left in there:
        if LEFT.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
    whole = whole_checkpoints(run)
    for folder in there:
        if (folder / manifest.FILE).exists() and folder not in whole and folder > max(whole, default=run):
            sys.stderr.write(f"{folder} is passed over: {'; '.join(problems(folder))}\n")
    if not whole:
        return None
    before = read_trainer(whole[-1]).get("identity", {})
    if found := changes(run, before, identity):
        raise UserError(f"{run} was started with {said(found)}; choose another out, or remove the folder")
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
    out = checkpoint.with_name(f"{checkpoint.name}.clpds-universal")

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
    original = checkpoint.with_name(checkpoint.name.removesuffix(".clpds-universal"))
    trainer = read_trainer(original)
    if original != checkpoint:
        on_first_rank(lambda: shutil.rmtree(checkpoint))
    return Position(step=trainer["step"], tokens=trainer["tokens"])
