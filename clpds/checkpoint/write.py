"""Write a checkpoint: the one place where bytes move, tensor after tensor."""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from clpds import provenance
from clpds.checkpoint.anatomy import anatomy
from clpds.checkpoint.lazy import Checkpoint, LazyTensor
from clpds.checkpoint.open import SAFETENSORS_DTYPES, TOKENIZER_FILES
from clpds.errors import UserError
from clpds.output import new_folder
from clpds.progress import progress
from clpds.recipe import Step

DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
CHUNK = 64 * 2**20  # bytes looked at and written at once


def write_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    step: Step,
    *,
    inputs: Mapping[str, Path | None],
    card: str,
    dtype: torch.dtype | None = None,
    max_shard_size: str = "5GB",
    overwrite: bool = False,
    **facts: Any,
) -> None:
    """Stream ``checkpoint`` into the Hugging Face folder ``out``; memory follows the largest tensor.

    Same inputs, same bytes. ``card`` is the text of README.md; ``inputs`` and ``facts`` go into
    provenance.json. Raises UserError, leaving nothing behind, for a NaN or infinity (naming the
    tensor and where it came from), an existing ``out`` or a disk too small.
    """
    if dtype is not None:
        checkpoint = checkpoint.derive(replaced={name: t.to(dtype) for name, t in checkpoint.tensors.items()})
    shards = _plan(checkpoint.tensors, parse_size(max_shard_size))
    config = copy.deepcopy(checkpoint.config)
    config.architectures = [anatomy(config).model_class.__name__]
    config.dtype = _main_dtype(checkpoint.tensors)
    with new_folder(out, overwrite=overwrite, need=checkpoint.nbytes) as folder:
        with progress(f"writing {out} (MB)", checkpoint.nbytes // 10**6) as advance:
            for file, names in shards.items():
                shard = {name: checkpoint.tensors[name] for name in names}
                for written in _write_safetensors(folder / file, shard):
                    advance(written / 10**6)
        if len(shards) > 1:
            index: dict[str, Any] = {
                "metadata": {"total_size": checkpoint.nbytes},
                "weight_map": {name: file for file, names in shards.items() for name in names},
            }
            index["weight_map"] = dict(sorted(index["weight_map"].items()))
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        config.save_pretrained(folder)
        if checkpoint.generation_config is not None:
            checkpoint.generation_config.save_pretrained(folder)
        copy_tokenizer(checkpoint.tokenizer_folder, folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        provenance.record(folder, step, inputs, **facts)


def copy_tokenizer(source: Path | None, folder: Path) -> None:
    """Copy the tokenizer's files as they are, so that whatever could read them still can."""
    if source is None:
        return
    for pattern in TOKENIZER_FILES:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, folder / file.name)


def parse_size(text: str) -> int:
    """``"5GB"`` to bytes, as transformers reads it; UserError otherwise."""
    upper = text.strip().upper()
    unit = next((unit for unit in UNITS if upper.endswith(unit)), "")
    number = upper.removesuffix(unit)
    if not unit or not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise UserError(f"max_shard_size {text!r} is not a size such as 500MB or 5GB")
    return int(float(number) * UNITS[unit])


def _plan(tensors: Mapping[str, LazyTensor], limit: int) -> dict[str, list[str]]:
    """File name to tensor names, filled in the model's order; a tensor over the limit gets its own file."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups, 1)}


def _write_safetensors(file: Path, tensors: Mapping[str, LazyTensor]) -> Iterator[int]:
    """Write one file, yielding the bytes of each chunk written; byte for byte what ``save_file`` gives."""
    # The reference implementation orders by alignment, widest first, then by name.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        tensor = tensors[name]
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in names:
            for chunk in finite_chunks(name, tensors[name]):
                stream.write(chunk.view(torch.uint8).numpy().data)
                yield chunk.nbytes


def finite_chunks(name: str, lazy: LazyTensor) -> Iterator[torch.Tensor]:
    """The tensor's elements as contiguous 1-D chunks; UserError at the first NaN or infinity."""
    tensor = lazy.load().reshape(-1).contiguous()
    for chunk in torch.split(tensor, max(1, CHUNK // lazy.dtype.itemsize)):
        if lazy.dtype.is_floating_point and lazy.dtype.itemsize > 1 and not bool(chunk.isfinite().all()):
            raise UserError(f"tensor {name} of {lazy.origin or 'the model'} holds NaN or infinity")
        yield chunk


def _main_dtype(tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """The floating dtype that most elements have."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.dtype.is_floating_point:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel
    return max(sizes, key=lambda dtype: sizes[dtype])
