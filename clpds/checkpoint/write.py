"""Write a checkpoint: the one place where bytes move, tensor after tensor."""

import copy
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from transformers import PretrainedConfig

from clpds import provenance
from clpds.checkpoint.anatomy import Anatomy, anatomy
from clpds.checkpoint.dtypes import dtypes
from clpds.checkpoint.lazy import Checkpoint, LazyTensor
from clpds.checkpoint.names import file_names
from clpds.checkpoint.safetensors import Buffer, copy_safetensors, write_safetensors
from clpds.errors import UserError
from clpds.headers import read_header, some
from clpds.progress import progress
from clpds.recipe import Step
from clpds.sharing import ALONE, World, new_shared_folder, see, share_out
from clpds.tokenizer_files import copy_tokenizer

COPIERS = 2  # files at once: while one is hashed the system copies the next


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
    keep_files: bool = False,
    link: bool = False,
    world: World = ALONE,
    held: Collection[str] = (),
    **facts: Any,
) -> None:
    """Stream ``checkpoint`` into the Hugging Face folder ``out``; memory follows the largest tensor.

    Same inputs, same bytes. With ``keep_files`` a file in which nothing changes is taken over whole: copied, or with
    ``link`` a second name of the same file, which is then neither read nor hashed. ``card`` is the text of
    README.md; ``inputs`` and ``facts`` go into provenance.json. All ranks of ``world`` call it with the same
    checkpoint and share the shards; those with a tensor that is ``held`` by rank 0 alone are rank 0's, and so
    are ``card`` and ``facts``. Raises UserError, leaving nothing behind, for a NaN or infinity (naming the
    tensor and where it came from), an existing ``out``, a disk too small, or a file that cannot be linked.
    """
    plan = world.agree(lambda: _plan(checkpoint, dtype, max_shard_size, keep_files, held))
    linked = plan.kept if link else {}
    owners = share_out(plan.sizes, world.size, plan.held)
    need = sum(size for file, size in plan.sizes.items() if file not in linked)
    with new_shared_folder(world, out, overwrite=overwrite, need=need) as folder:
        world.on_first(lambda: _describe(folder, checkpoint, plan, card))
        mine = [file for file in plan.files if owners[file] == world.rank]
        hashes = world.agree(lambda: _write_shards(out, folder, plan, mine, linked))
        world.on_first(lambda: see(folder / file for file in plan.files))
        unread = [path for file, kept in linked.items() for path in (folder / file, kept)]
        if linked:
            facts["linked"] = sorted(linked)
        provenance.record(folder, step, inputs, world=world, known=hashes, unread=unread, **facts)


@dataclass(frozen=True)
class _Plan:
    """What is going to be written."""

    config: PretrainedConfig
    index: dict[str, Any] | None
    """Of the weight files, where there are several."""
    files: dict[str, dict[str, LazyTensor]]
    held: frozenset[str]
    """Those of the files that rank 0 alone can write."""
    kept: dict[str, Path]
    """Those of the files that are another as it is, and which one."""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of tensors in each file."""
        return {file: sum(tensor.nbytes for tensor in content.values()) for file, content in self.files.items()}


def _plan(
    checkpoint: Checkpoint,
    dtype: torch.dtype | None,
    max_shard_size: str,
    keep_files: bool,
    held: Collection[str],
) -> _Plan:
    config = copy.deepcopy(checkpoint.config)
    wanted = anatomy(config)
    _require_whole(checkpoint.tensors, wanted)
    tensors = {name: checkpoint.tensors[name] for name in wanted.shapes}
    if dtype is not None:
        types = dtypes(wanted, dtype)
        tensors = {name: tensor.to(types.get(name, dtype)) for name, tensor in tensors.items()}
    config.architectures = [wanted.model_class.__name__]
    config.dtype = _main_dtype(tensors)
    of_first = {id(tensors[name]) for name in held}
    tensors = file_names(tensors, wanted)
    limit = parse_size(max_shard_size)
    unchanged = _unchanged(tensors, limit) if keep_files else {}
    kept_names = {name for names in unchanged.values() for name in names}
    rest = {name: tensor for name, tensor in tensors.items() if name not in kept_names}
    shards = split_state_dict_into_shards_factory(
        rest, get_storage_size=lambda tensor: tensor.nbytes, filename_pattern="{suffix}", max_shard_size=limit
    )
    contents = [*(shards.filename_to_tensors.values() if rest else ()), *unchanged.values()]
    files = {
        _file_name(number, len(contents)): {name: tensors[name] for name in names}
        for number, names in enumerate(contents, 1)
    }
    kept = dict(zip(list(files)[len(files) - len(unchanged) :], unchanged, strict=True))
    index = None
    if len(files) > 1:
        parameters = sum(prod(wanted.shapes[name]) for name in wanted.parameters)
        size = sum(tensor.nbytes for tensor in tensors.values())
        weight_map = {name: file for file, content in files.items() for name in content}
        index = {"metadata": {"total_parameters": parameters, "total_size": size}, "weight_map": weight_map}
    of_first_files = {file for file, content in files.items() if any(id(one) in of_first for one in content.values())}
    return _Plan(config, index, files, frozenset(of_first_files), kept)


def _unchanged(tensors: Mapping[str, LazyTensor], limit: int) -> dict[Path, list[str]]:
    """The files of at most ``limit`` bytes that hold some of ``tensors``, as they are, and nothing else."""
    homes: dict[Path, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.stored is not None and tensor.stored[1] == name:
            homes.setdefault(tensor.stored[0], []).append(name)
    if len(homes) == 1 and sum(map(len, homes.values())) < len(tensors):
        return {}  # what was one file, and has more tensors now, stays one file
    return {
        file: names
        for file, names in homes.items()
        if read_header(file).keys() == set(names) and sum(tensors[name].nbytes for name in names) <= limit
    }


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _describe(folder: Path, checkpoint: Checkpoint, plan: _Plan, card: str) -> None:
    """All that is not weights."""
    plan.config.save_pretrained(folder)
    if checkpoint.generation_config is not None:
        checkpoint.generation_config.to_json_file(folder / "generation_config.json")
    copy_tokenizer(checkpoint.tokenizer_folder, folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    if plan.index is not None:
        text = json.dumps(plan.index, indent=2, sort_keys=True) + "\n"
        (folder / "model.safetensors.index.json").write_text(text)


def _write_shards(
    out: Path, folder: Path, plan: _Plan, mine: Sequence[str], linked: Mapping[str, Path]
) -> dict[Path, str]:
    """Write the files ``mine``; the hashes of those that passed through here, and of the files that they copy.

    Files are copied beside the making of new ones, which goes tensor by tensor as before: memory does not double.
    """
    hashes: dict[Path, str] = {}
    size = sum(plan.sizes[file] for file in mine if file not in linked)
    see([folder])
    with progress(f"writing {out} (MB)", size // 10**6) as advance, ThreadPoolExecutor(COPIERS) as pool:

        def hashed(chunks: Iterable[Buffer]) -> str:
            digest = hashlib.sha256()
            for chunk in chunks:
                digest.update(chunk)
                advance(len(chunk) / 10**6)
            return digest.hexdigest()

        for name in mine:
            if name in linked:
                _link(linked[name], folder / name)
        copied = {name: path for name, path in plan.kept.items() if name in mine and name not in linked}
        copies = {name: pool.submit(hashed, copy_safetensors(path, folder / name)) for name, path in copied.items()}
        try:
            for name in mine:
                if name not in plan.kept:
                    hashes[folder / name] = hashed(write_safetensors(folder / name, plan.files[name]))
            for name, path in copied.items():
                hashes |= dict.fromkeys([folder / name, path], copies[name].result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return hashes


def _link(source: Path, file: Path) -> None:
    try:
        os.link(source.resolve(), file)  # a cache of models may hold a symbolic link
    except OSError as error:
        raise UserError(f"{source} cannot be linked to {file} ({error.strerror}); leave out --link") from error


def parse_size(text: str) -> int:
    """``"5GB"`` to bytes, as transformers reads it; UserError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT])(I?)B", text.strip().upper())
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** (1 + "KMGT".index(match[2]))) if match else 0
    if size <= 0:
        raise UserError(f"max_shard_size {text!r} is not a size such as 500MB or 5GB")
    return size


def _require_whole(tensors: Mapping[str, LazyTensor], wanted: Anatomy) -> None:
    """What is written can be opened again; ValueError where a method made something else."""
    made = {name: tensor.shape for name, tensor in tensors.items()}
    if made != wanted.shapes:
        wrong = sorted({name for name, _ in made.items() ^ wanted.shapes.items()})
        raise ValueError(f"these tensors do not fit {wanted.model_class.__name__} and its config: {some(wrong)}")


def _main_dtype(tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """The floating dtype that most elements have."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.dtype.is_floating_point:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel
    return max(sizes, key=lambda dtype: sizes[dtype])
