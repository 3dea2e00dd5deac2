"""Open a model folder, a GGUF file or a hub id; headers are read, weights are not."""

import json
import pickle
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from clpds.checkpoint.anatomy import Anatomy, anatomy
from clpds.checkpoint.lazy import Checkpoint, LazyTensor
from clpds.errors import UserError

SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "*.model", "chat_template.jinja",
)  # fmt: skip


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open ``path`` (folder, ``.gguf`` file or hub id) with the names that its model class uses.

    The tensors are complete and of the right shape: missing, unexpected and misshapen ones, a
    truncated or missing shard and an index that points outside the folder are a UserError that
    names them. Values are not looked at (``write_checkpoint`` and the trainer do that).
    """
    folder = Path(path)
    if folder.suffix == ".gguf":
        return _open_gguf(folder)
    if not folder.is_dir():
        folder = _download(str(path))
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; expected a Hugging Face model folder")
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read: {_one_line(error)}") from error
    tensors = _fit(_read_headers(folder), anatomy(config), folder)
    generation = folder / "generation_config.json"
    return Checkpoint(
        tensors=tensors,
        config=config,
        generation_config=GenerationConfig.from_pretrained(folder) if generation.is_file() else None,
        tokenizer_folder=folder if has_tokenizer(folder) else None,
        path=Path(path),
    )


def has_tokenizer(folder: Path) -> bool:
    """Whether AutoTokenizer finds something to open in ``folder``."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")) or any(
        folder.glob("*.model")
    )


def _download(name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError(f"{name} does not exist")
    try:
        patterns = ["*.json", "*.safetensors", *TOKENIZER_FILES]
        folder = Path(snapshot_download(name, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*patterns, "pytorch_model*.bin"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{name} is no folder here, and the hub does not give it: {_one_line(error)}") from error
    return folder


def _read_headers(folder: Path) -> dict[str, LazyTensor]:
    """All tensors of all weight files of ``folder``, under the names they have there."""
    readers: tuple[tuple[str, Callable[[Path], dict[str, LazyTensor]]], ...] = (
        ("model.safetensors", _read_safetensors),
        ("pytorch_model.bin", _read_bin),
    )
    for name, read in readers:
        index = folder / f"{name}.index.json"
        if index.is_file():
            tensors: dict[str, LazyTensor] = {}
            weight_map = _weight_map(index)
            for file in sorted(set(weight_map.values())):
                tensors.update(read(folder / file))
            lost = sorted(weight_map.keys() - tensors.keys())
            if lost:
                raise UserError(f"{index} lists {_some(lost)}, but the shards do not hold it")
            return tensors
        if (folder / name).is_file():
            return read(folder / name)
    raise UserError(f"{folder} has no weights (model.safetensors or pytorch_model.bin, or their index)")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index} is no valid index ({_one_line(error)}); download it again") from error
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file:
            raise UserError(f"{index} names {file!r}, which lies outside its folder; do not trust this model")
        if not (index.parent / file).is_file():
            raise UserError(f"{index.parent / file} is missing, but {index.name} names it; download it again")
    return weight_map


def _read_safetensors(file: Path) -> dict[str, LazyTensor]:
    try:
        handle: Any = safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is truncated or damaged ({_one_line(error)}); download it again") from error

    def lazy(name: str) -> LazyTensor:
        part = handle.get_slice(name)
        dtype = SAFETENSORS_DTYPES.get(part.get_dtype())
        if dtype is None:
            raise UserError(f"{file}: tensor {name} is of type {part.get_dtype()}, which is not supported")

        def load() -> Tensor:
            tensor: Tensor = handle.get_tensor(name)
            return tensor

        def rows(start: int, stop: int) -> Tensor:
            tensor: Tensor = handle.get_slice(name)[start:stop]
            return tensor

        shape = tuple(part.get_shape())
        return LazyTensor(shape, dtype, load, rows if shape else None, origin=str(file))

    return {name: lazy(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)


def _read_bin(file: Path) -> dict[str, LazyTensor]:
    try:
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{file} cannot be opened safely: {_one_line(error)[:200]}") from error
    return {name: LazyTensor.of(tensor, str(file)) for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _open_gguf(file: Path) -> Checkpoint:
    """Dequantise a GGUF file through transformers; the whole model is held in memory (float32)."""
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"{file}: transformers cannot read this GGUF file: {_one_line(error)}") from error
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it says "gguf", and the tensors no longer are
    config.dtype = torch.float32
    folder = tempfile.TemporaryDirectory(prefix="clpds-gguf-")
    tokenizer.save_pretrained(folder.name)
    tensors = {name: LazyTensor.of(tensor, str(file)) for name, tensor in model.state_dict().items()}
    return Checkpoint(
        tensors=_fit(tensors, anatomy(config), file),
        config=config,
        generation_config=model.generation_config,
        tokenizer_folder=Path(folder.name),
        path=file,
        keep_alive=folder,
    )


def _fit(found: dict[str, LazyTensor], wanted: Anatomy, where: Path) -> dict[str, LazyTensor]:
    """The tensors in the model class's names and order, or a UserError that lists what does not fit."""
    tensors = {_modern(name, wanted): tensor for name, tensor in found.items()}
    for alias, name in wanted.tied.items():
        held = tensors.pop(alias, None)
        if held is not None:
            tensors.setdefault(name, held)
    missing = [name for name in wanted.shapes if name not in tensors]
    unexpected = [
        name
        for name in tensors
        if name not in wanted.shapes and not any(re.search(ending, name) for ending in wanted.ignorable)
    ]
    misshapen = [
        f"{name} {tensors[name].shape} instead of {shape}"
        for name, shape in wanted.shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    for problem, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)):
        if names:
            raise UserError(f"{where}: {problem} for {wanted.model_class.__name__}: {_some(names)}")
    return {name: tensors[name] for name in wanted.shapes}


def _modern(name: str, wanted: Anatomy) -> str:
    """The class's own spelling of a name from an older or headless file."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
    if name in wanted.shapes or name in wanted.tied:
        return name
    longer, shorter = f"{wanted.prefix}.{name}", name.removeprefix(f"{wanted.prefix}.")
    if longer in wanted.shapes or longer in wanted.tied:
        return longer
    return shorter if shorter in wanted.shapes else name


def _some(names: Iterable[str], limit: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
