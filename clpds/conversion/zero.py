"""DeepSpeed's ZeRO checkpoints, stages 1, 2 and 3, as lazy checkpoints of the float32 master weights.

N ranks write N optimizer-states files, each with the rank's flat pieces of the master weights, one
piece a parameter group (stage 3: a sub-group). The model-states files (one; stage 3: N) say which
parameters these are and hold what has no master weights: buffers and frozen parameters. Layouts as
DeepSpeed 0.19.8 writes them (runtime/engine.py, runtime/bf16_optimizer.py and runtime/zero/).
"""

import ctypes
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import prod
from mmap import MADV_DONTNEED, PAGESIZE
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import safe_globals

from clpds.checkpoint import Checkpoint, LazyTensor
from clpds.checkpoint.names import fit
from clpds.checkpoint.open import open_without_weights
from clpds.errors import UserError
from clpds.refusals import require_given

Span = tuple[Tensor, int, int]
"""Elements start:stop of a rank's flat 1-D tensor."""
Shapes = Mapping[str, torch.Size]
AROUND = 2**21  # bytes: the largest piece of a file's cache that is mapped at once


class _Inert:
    """Takes the place of DeepSpeed's own classes in the files: attributes, and no code."""


STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Inert, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Inert, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Inert, "deepspeed.utils.tensor_fragment.fragment_address"),
]


def open_zero(folder: Path, model_folder: Path) -> Checkpoint:
    """Open a DeepSpeed checkpoint folder; config, generation config and tokenizer are ``model_folder``'s.

    Every tensor is float32 (integer buffers keep their type): trained ones are the master weights,
    read from all ranks' memory-mapped files when asked for. Only tensors and plain values are
    unpickled, whatever the files hold. Raises UserError that names the file where one is lost, left
    over from another run, truncated or of another kind, and the tensors that do not fit the model.
    """
    bare, wanted = open_without_weights(model_folder)
    optimizers = _load_optimizers(folder)
    model_files = _model_files(folder, optimizers)
    model = _load(model_files[0], "module", "buffer_names", "param_shapes", "shared_params", "frozen_param_shapes")
    try:
        spans, shapes = _spans(optimizers, model, model_files)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: the ranks' files are not of one save; restore them from one") from error
    in_full = model["buffer_names"] if _is_stage3(optimizers) else model["module"].keys() - shapes.keys()
    tensors = {name: spanned(spans[name], tuple(shape), folder) for name, shape in shapes.items()}
    for name in sorted(in_full):
        tensors[name] = LazyTensor.of(model["module"][name], str(folder)).to(torch.float32)
    tensors |= {alias: tensors[name] for alias, name in model["shared_params"].items() if name in tensors}
    return replace(bare, tensors=fit(tensors, wanted, folder), path=folder)


def is_zero(folder: Path) -> bool:
    """Whether DeepSpeed wrote a checkpoint into this folder."""
    return any(folder.glob("*mp_rank_*_states.pt"))


def _load_optimizers(folder: Path) -> dict[Path, dict[str, Any]]:
    """All ranks' optimizer states by file, in the order of ranks; as many as there were ranks."""
    files = _by_rank(folder.glob("*_optim_states.pt"))
    if not files:
        raise UserError(f"{folder} has no *_optim_states.pt files; expected a checkpoint of ZeRO stage 1, 2 or 3")
    states = {rank: _load(file, "optimizer_state_dict")["optimizer_state_dict"] for rank, file in files.items()}
    counts = {}
    for rank, state in states.items():
        if not isinstance(state, dict) or not {"fp32_flat_groups", "single_partition_of_fp32_groups"} & state.keys():
            raise UserError(f"{files[rank]} holds no master weights of ZeRO stage 1, 2 or 3; other stages have none")
        count = state["partition_count"]
        counts[rank] = max(count) if isinstance(count, list) else count
    first = min(files)
    _require_ranks(files, counts[first])
    for rank, count in counts.items():
        if count != counts[first] or _is_stage3({files[rank]: states[rank]}) != _is_stage3(
            {files[first]: states[first]}
        ):
            raise UserError(f"{files[rank]} and {files[first].name} are of different runs; restore the right one")
    return {files[rank]: states[rank] for rank in sorted(files)}


def _model_files(folder: Path, optimizers: Mapping[Path, dict[str, Any]]) -> list[Path]:
    """The model-states files in the order of ranks: one for stages 1 and 2, one a rank for stage 3."""
    if _is_stage3(optimizers):
        files = _by_rank(folder.glob("*zero_pp_rank_*_model_states.pt"))
        if not files:
            raise UserError(f"{folder} has lost its *_model_states.pt files; restore them")
        _require_ranks(files, len(optimizers))
        return [files[rank] for rank in sorted(files)]
    file = folder / "mp_rank_00_model_states.pt"
    if not file.is_file():
        raise UserError(f"{file} is missing; restore it")
    return [file]


def _is_stage3(optimizers: Mapping[Path, dict[str, Any]]) -> bool:
    return "fp32_flat_groups" in next(iter(optimizers.values()))


def _by_rank(files: Iterable[Path]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for file in sorted(files):
        match = re.fullmatch(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_(?:optim|model)_states\.pt", file.name)
        if match is None or int(match[2]):
            raise UserError(f"{file} is of a tensor-parallel or mixture-of-experts run, which cannot be converted")
        rank = int(match[1])
        if rank in found:
            raise UserError(f"{file} and {found[rank].name} are of one rank; remove the one left over from another run")
        found[rank] = file
    return found


def _require_ranks(files: Mapping[int, Path], world_size: int) -> None:
    for rank, file in files.items():
        if rank >= world_size:
            raise UserError(f"{file} is left over from another run: this checkpoint has {world_size} ranks; remove it")
    name = next(iter(files.values()))
    for rank in range(world_size):
        if rank not in files:
            lost = name.with_name(re.sub(r"pp_rank_\d+", f"pp_rank_{rank}", name.name))
            raise UserError(f"{lost} is missing: this checkpoint has {world_size} ranks; restore it")


def _spans(
    optimizers: Mapping[Path, dict[str, Any]], model: Mapping[str, Any], model_files: list[Path]
) -> tuple[dict[str, list[Span]], Shapes]:
    """Where each parameter lies, and its shape; frozen ones too where they are cut up (stage 3)."""
    groups: list[Shapes] = model["param_shapes"]
    shapes = {name: shape for group in groups for name, shape in group.items()}
    if not _is_stage3(optimizers):
        return _sliced_spans(optimizers, groups), shapes
    frozen: Shapes = model["frozen_param_shapes"] or {}
    return _spread_spans(optimizers, groups) | _frozen_spans(model_files, frozen), shapes | dict(frozen)


def _sliced_spans(optimizers: Mapping[Path, dict[str, Any]], groups: list[Shapes]) -> dict[str, list[Span]]:
    """Stages 1 and 2: a group's parameters end to end, with gaps for alignment, cut into a slice a rank."""
    # The files also hold param_slice_mappings, but with round_robin_gradients those are in another
    # order than the weights (DeepSpeed 0.19.8); param_shapes has the right one.
    spans: dict[str, list[Span]] = {}
    file, first = next(iter(optimizers.items()))
    gaps = first.get("param_alignment_paddings") or [[0] * len(group) for group in groups]
    for index, (group, after) in enumerate(zip(groups, gaps, strict=True)):
        flats = [state["single_partition_of_fp32_groups"][index].flatten() for state in optimizers.values()]
        end = 0
        for (name, shape), gap in zip(group.items(), after, strict=True):
            spans[name] = _cut(flats, end, end + prod(shape))
            end += prod(shape) + gap
        held = sum(flat.numel() for flat in flats)
        if not end <= held < end + 2 * len(flats):  # groups are padded to a multiple of 2 N
            raise UserError(f"{file} and the other ranks' hold {held} elements of group {index}, the model needs {end}")
    return spans


def _cut(flats: list[Tensor], start: int, stop: int) -> list[Span]:
    """Where the elements ``start:stop`` of the flat tensors, taken end to end, lie."""
    spans = []
    for flat in flats:
        size = flat.numel()
        if start < size and stop > 0:
            spans.append((flat, max(start, 0), min(stop, size)))
        start, stop = start - size, stop - size
    return spans


def _spread_spans(optimizers: Mapping[Path, dict[str, Any]], groups: list[Shapes]) -> dict[str, list[Span]]:
    """Stage 3: every parameter padded to a multiple of N and cut into N parts; a rank has its parts end to end."""
    world_size = len(optimizers)
    spans: dict[str, list[Span]] = {}
    ends = []
    for index, group in enumerate(groups):
        end = 0
        for name, shape in group.items():
            start, end = end, end + _part(shape, world_size)
            spans[name] = [(state["fp32_flat_groups"][index], start, end) for state in optimizers.values()]
        ends.append(end)
    for file, state in optimizers.items():
        sizes = [flat.numel() for flat in state["fp32_flat_groups"]]
        if sizes != ends:
            where = "; weights offloaded to NVMe are not read" if (file.parent / "offloaded_tensors").exists() else ""
            raise UserError(f"{file} holds groups of {sizes} elements where the model needs {ends}{where}")
    return spans


def _frozen_spans(model_files: list[Path], frozen: Shapes) -> dict[str, list[Span]]:
    """Stage 3: frozen parameters are cut up in the same way, each part a tensor of its own."""
    if not frozen:
        return {}
    ranks = [_load(file, "frozen_param_fragments")["frozen_param_fragments"] for file in model_files]
    size = len(model_files)
    return {name: [(rank[name], 0, _part(shape, size)) for rank in ranks] for name, shape in frozen.items()}


def _part(shape: torch.Size, world_size: int) -> int:
    return -(-prod(shape) // world_size)


def spanned(spans: list[Span], shape: tuple[int, ...], folder: Path) -> LazyTensor:
    """The tensor whose flat elements are the spans, end to end; what comes after its size is padding."""

    flats = [tensor[start:stop] for tensor, start, stop in spans]

    def flat(start: int, stop: int) -> Tensor:
        parts = [part[first:last] for part, first, last in _cut(flats, start, stop)]
        values = torch.cat(parts).detach().float()
        for part in parts:
            _forget(part)
        return values

    width = prod(shape[1:])
    return LazyTensor(
        shape,
        torch.float32,
        load=lambda: flat(0, prod(shape)).view(shape),
        rows=(lambda start, stop: flat(start * width, stop * width).view(-1, *shape[1:])) if shape else None,
        origin=str(folder),
    )


def _forget(part: Tensor) -> None:
    """Give back the memory of a part of a mapped file that was read; a later look reads it again.

    Else all of the master weights would stay in the process: 2.0 GB of a model of 0.5 billion, and no bound. With the
    part goes what lies around it in its tensor: the system maps neighbours of what is read, anew after they were given
    back, and 0.5 billion of eight ranks kept 0.8 GB of them.
    """
    whole = part.untyped_storage()
    start, stop = part.data_ptr() - AROUND, part.data_ptr() + part.nbytes + AROUND
    start, stop = max(start, whole.data_ptr()), min(stop, whole.data_ptr() + whole.nbytes())
    first, last = -(-start // PAGESIZE) * PAGESIZE, stop // PAGESIZE * PAGESIZE
    if sys.platform == "linux" and first < last:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), MADV_DONTNEED)


def _load(file: Path, *keys: str) -> dict[str, Any]:
    """The file's dict, memory-mapped, with these keys in it."""
    try:
        with safe_globals(STAND_INS):
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} is damaged or holds more than tensors, and code from files is not run") from error
    except Exception as error:  # torch's reader checks little, so damage shows as any error
        require_given(file, error)
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{file} is truncated or damaged ({line}); restore it, or convert an earlier save") from error
    for key in keys:
        if not isinstance(state, dict) or state.get(key, ...) is ...:
            raise UserError(f"{file} has no '{key}'; expected a file that DeepSpeed wrote with ZeRO")
    return state
