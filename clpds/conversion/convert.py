"""``clpds convert``: a run, a ZeRO checkpoint or any model that can be opened, to a Hugging Face folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from clpds import manifest
from clpds.bounds import POINTER, RECORD
from clpds.checkpoint import Checkpoint, anatomy, open_checkpoint, write_checkpoint
from clpds.conversion.zero import is_zero, open_zero
from clpds.errors import UnreadableError, UserError
from clpds.folders.claim import held
from clpds.headers import some
from clpds.inside import read_json, read_text, require_inside
from clpds.output import makes_folder
from clpds.progress import progress
from clpds.recipe import Convert


@makes_folder
def convert(step: Convert) -> None:
    """Write ``step.model`` to ``step.out`` as ``save_pretrained`` would have, with provenance and a model card.

    Tensors are cast once, from the float32 master weights where there are such, to ``step.dtype`` or
    the config's dtype. The files of a checkpoint that has a manifest are hashed before.
    Raises UserError for what cannot be opened, for an incomplete checkpoint (with the one before it)
    and where the result is not what was read.
    """
    folder = _checkpoint_folder(step.model)
    inputs, trained = {"model": step.model}, {}
    if folder is None:
        checkpoint = open_checkpoint(step.model)
    else:
        if claim := held(step.out):
            claim.reads(folder)
        _require_whole(folder)
        checkpoint = open_zero(folder, _model_folder(folder))
        described = folder / manifest.FILE  # its hashes stand for those of all files
        inputs, trained = {"checkpoint": described if described.is_file() else folder}, _trained(folder)
    dtype = getattr(torch, step.dtype) if step.dtype else checkpoint.config.dtype
    facts: dict[str, Any] = {"trained": trained} if trained else {}
    with _one_thread():
        write_checkpoint(
            checkpoint,
            step.out,
            step,
            inputs=inputs,
            card=_card(step, checkpoint, trained),
            dtype=dtype,
            max_shard_size=step.max_shard_size,
            overwrite=step.overwrite,
            **facts,
        )
    sys.stdout.write(f"{step.out}: {_summary(checkpoint)}{_position(trained)}\n")
    if step.verify:
        verify(step.out, checkpoint)
        count = len(checkpoint.tensors)
        sys.stdout.write(f"{step.out}: verified, transformers loads it and all {count} tensors are what was read\n")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch do without its threads: nothing is computed here, and memory is waited for.

    Beside other programs, threads that wait for each other after every chunk cost ten times what they save: 2 of them
    wrote 175 MB in a second of the processor's time, one wrote 3.0 GB.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def verify(out: Path, checkpoint: Checkpoint) -> None:
    """Load ``out`` with transformers on the CPU; UserError unless every tensor is that of ``checkpoint``.

    Compared bit for bit, after one cast to the type that ``out`` has.
    """
    wanted = anatomy(checkpoint.config)
    model, loading = wanted.model_class.from_pretrained(out, dtype="auto", output_loading_info=True)
    wrong = sorted(str(name) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in loading[key])
    loaded = model.state_dict()
    with progress(f"verifying {out} (tensors)", len(checkpoint.tensors)) as advance:
        for name, lazy in checkpoint.tensors.items():
            read = lazy.load().to(loaded[name].dtype).contiguous().view(-1)
            if not torch.equal(read.view(torch.uint8), loaded[name].contiguous().view(-1).view(torch.uint8)):
                wrong.append(name)
            advance(1)
    wrong += [alias for alias, name in wanted.tied.items() if loaded[alias].data_ptr() != loaded[name].data_ptr()]
    if wrong:
        raise UserError(f"{out} is not what was read: {some(wrong)} differ; remove it and convert again")


def _checkpoint_folder(path: Path) -> Path | None:
    """The DeepSpeed checkpoint that ``path`` is, or whose ``latest`` it has; None where it is neither."""
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
        if not (path / "latest").is_file():
            raise UserError(f"{path} has no checkpoint yet; let the run reach its first save")
    latest = path / "latest"
    if latest.is_file():
        name = read_text(latest, POINTER).strip()
        require_inside(latest, name)
        if not (path / name).is_dir():
            raise UserError(f"{latest} names '{name}', which is no folder beside it; name a checkpoint yourself")
        return path / name
    return path if is_zero(path) or (path.is_dir() and _run(path) is not None) else None


def _run(folder: Path) -> Path | None:
    """The run that a checkpoint folder lies in, if it was written by ``clpds train``."""
    parent = folder.absolute().parent
    return parent.parent if parent.name == "checkpoints" and (parent.parent / "model").is_dir() else None


def _model_folder(folder: Path) -> Path:
    run = _run(folder)
    for candidate in (run / "model",) if run else (folder, folder.absolute().parent):
        if (candidate / "config.json").is_file():
            return candidate
    where = f"{run / 'model'}" if run else f"{folder} or the folder above it"
    raise UserError(f"{folder} needs a config.json in {where}; copy it there, with the tokenizer's files")


def _require_whole(folder: Path) -> None:
    """UserError unless every byte is as the manifest says; a checkpoint that no run wrote may have none."""
    if _run(folder) is None and not (folder / manifest.FILE).is_file():
        return
    problem = _problem(folder, deep=True)
    if problem is None:
        return
    before = [one for one in sorted(folder.absolute().parent.glob("step-*")) if one.name < folder.name]
    whole = [folder.parent / one.name for one in before if _problem(one, deep=False) is None]
    advice = f"convert the one before it: {whole[-1]}" if whole else "no earlier one is whole"
    raise UserError(f"{folder} is incomplete or damaged: {problem}; {advice}")


def _problem(folder: Path, *, deep: bool) -> str | None:
    try:
        return next(iter(manifest.check_manifest(folder, deep=deep)), None)
    except UnreadableError:
        if deep:  # the one that was asked for; others are only offered in its place
            raise
        return "unreadable"
    except UserError as error:
        return str(error)


def _trained(folder: Path) -> dict[str, Any]:
    """The run, its step and its tokens, as the trainer noted them; empty for other checkpoints."""
    run, file = _run(folder), folder / "trainer.json"
    if run is None or not file.is_file():
        return {}
    document = read_json(file, RECORD)
    return {"run": run.name, **{key: document[key] for key in ("step", "tokens", "world_size")}}


def _summary(checkpoint: Checkpoint) -> str:
    wanted = anatomy(checkpoint.config)
    parameters = sum(checkpoint.tensors[name].numel for name in wanted.parameters)
    return f"{wanted.model_class.__name__}, {parameters:,} parameters"


def _position(trained: dict[str, Any]) -> str:
    return ", {run} at step {step:,} after {tokens:,} tokens".format_map(trained) if trained else ""


def _card(step: Convert, checkpoint: Checkpoint, trained: dict[str, Any]) -> str:
    """README.md: front matter that the Hub reads, what this is, how to open it."""
    auto = "AutoModelForMaskedLM" if "ForMaskedLM" in _summary(checkpoint) else "AutoModelForCausalLM"
    ours = "    import clpds.models  # makes transformers know the class\n" if _is_ours(checkpoint) else ""
    name = trained.get("run", step.model.name)
    return f"""---
library_name: transformers
tags:
- clpds
---

# {name}

{_summary(checkpoint)}{_position(trained)}, converted by `clpds convert`. `provenance.json` has the hashes
of what was read and of every file here.

{ours}    from transformers import {auto}, AutoTokenizer

    model = {auto}.from_pretrained("FOLDER", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained("FOLDER")
"""


def _is_ours(checkpoint: Checkpoint) -> bool:
    """Whether the model is one that transformers lacks."""
    return type(checkpoint.config).__module__.startswith("clpds.")
