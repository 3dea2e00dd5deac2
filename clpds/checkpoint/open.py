"""Open a model folder, a GGUF file or a hub id; headers are read, weights are not."""

import pickle
import re
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PretrainedConfig,
)

from clpds.bounds import SETTINGS
from clpds.checkpoint.anatomy import Anatomy, anatomy, language_config
from clpds.checkpoint.gguf_split import set_split
from clpds.checkpoint.lazy import Checkpoint, LazyTensor
from clpds.checkpoint.names import fit
from clpds.checkpoint.safetensors import read_safetensors
from clpds.errors import UserError
from clpds.gguf_header import read_header
from clpds.headers import SAFETENSORS, read_shards
from clpds.inside import read_json
from clpds.model_counts import require_counts
from clpds.progress import progress
from clpds.refusals import require_given
from clpds.tokenizer_files import TOKENIZER_FILES, has_tokenizer, require_small_files


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open ``path`` (folder, ``.gguf`` file or hub id) with the names that its model class uses.

    The tensors are complete and of the right shape: missing, unexpected and misshapen ones, a
    truncated or missing shard and an index that points outside the folder are a UserError that
    names them. Values are not looked at (``write_checkpoint`` and the trainer do that).
    """
    folder = Path(path)
    if folder.suffix == ".gguf":
        return _open_gguf(folder)
    if folder.is_file():
        raise UserError(f"{folder} is a file; expected a Hugging Face model folder, a .gguf file or a hub id")
    if not folder.is_dir():
        folder = _download(str(path))
    bare, wanted = open_without_weights(folder)
    tensors = fit(read_weights(folder), wanted, folder, part=bare.part)
    return replace(bare, tensors=tensors)


def open_without_weights(folder: Path) -> tuple[Checkpoint, Anatomy]:
    """Config, generation config and tokenizer of a model folder, with no tensors yet."""
    require_small_files(folder)
    full = _read_config(folder)
    config, wanted = _language_model(folder, full)
    bare = Checkpoint(
        tensors={},
        config=config,
        generation_config=_read_generation_config(folder),
        tokenizer_folder=folder if has_tokenizer(folder) else None,
        path=folder,
        part=config is not full,
    )
    return bare, wanted


def _download(name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError(f"{name} does not exist")
    try:
        patterns = ["*.json", "model*.safetensors", *TOKENIZER_FILES]
        folder = Path(snapshot_download(name, allow_patterns=patterns))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*patterns, "pytorch_model*.bin"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{name} is no folder here, and the hub does not give it: {_one_line(error)}") from error
    return folder


def _read_config(folder: Path) -> PretrainedConfig:
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder} has no config.json; expected a Hugging Face model folder")
    try:
        require_counts(read_json(file, SETTINGS))
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # whatever a config class makes of values that do not fit together
        require_given(file, error)
        raise _unbuildable(file, error) from error
    how = getattr(config, "quantization_config", None)
    if how is not None:
        method = how.get("quant_method") if isinstance(how, dict) else getattr(how, "quant_method", None)
        raise UserError(
            f"{file}: the weights are quantised ({method or 'quantization_config'}); dequantise them first "
            "(in transformers: model.dequantize(), then save_pretrained)"
        )
    return config


def _language_model(folder: Path, full: PretrainedConfig) -> tuple[PretrainedConfig, Anatomy]:
    file = folder / "config.json"
    try:
        config = language_config(full)
        if config is not full:
            sys.stderr.write(f"{folder}: its text model alone is opened, as AutoModelForCausalLM does\n")
        return config, anatomy(config)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # whatever a model class makes of values that do not fit together
        raise _unbuildable(file, error) from error


def _unbuildable(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} describes no model that transformers can build: {_one_line(error)}")


def _read_generation_config(folder: Path) -> GenerationConfig | None:
    file = folder / "generation_config.json"
    if not file.is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    except (ValueError, TypeError, OSError) as error:
        require_given(file, error)
        raise UserError(f"{file} cannot be read ({_one_line(error)}); mend or remove it") from error


def read_weights(folder: Path) -> dict[str, LazyTensor]:
    """All tensors of all weight files of ``folder``, under the names they have there; headers are read."""
    tensors = read_shards(folder, SAFETENSORS, read_safetensors)
    tensors = read_shards(folder, "pytorch_model.bin", _read_bin) if tensors is None else tensors
    if tensors is None:
        raise UserError(f"{folder} has no weights ({SAFETENSORS} or pytorch_model.bin, or their index)")
    return tensors


def _read_bin(file: Path) -> dict[str, LazyTensor]:
    try:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        state = torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)
        tensors = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} is damaged or holds more than tensors, and code from files is not run") from error
    except Exception as error:  # torch's reader checks little, so damage shows as any error
        require_given(file, error)
        raise UserError(f"{file} is truncated or damaged ({_one_line(error)}); download it again") from error
    # Tied tensors are one storage under two names: one LazyTensor says that they are equal.
    lazy = {_place(tensor): LazyTensor.of(tensor, str(file)) for tensor in tensors.values()}
    return {name: lazy[_place(tensor)] for name, tensor in tensors.items()}


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _open_gguf(file: Path) -> Checkpoint:
    """Dequantise a GGUF file through transformers; the whole model is held in memory (float32)."""
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    read_header(file)  # the library believes every number
    try:
        with progress(f"reading {file.name}", 2) as advance:
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            advance(1)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            set_split(tokenizer, file)
            advance(1)
    except Exception as error:  # the readers check little, so damage shows as any error
        require_given(file, error)
        raise UserError(f"{file}: transformers cannot read this GGUF file: {_one_line(error)}") from error
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it says "gguf", and the tensors no longer are
    folder = tempfile.TemporaryDirectory(prefix="clpds-gguf-")
    tokenizer.save_pretrained(folder.name)
    tensors = {name: LazyTensor.of(tensor, str(file)) for name, tensor in model.state_dict().items()}
    wanted = anatomy(config)
    return Checkpoint(
        tensors=fit({name: tensor for name, tensor in tensors.items() if name not in wanted.tied}, wanted, file),
        config=config,
        generation_config=model.generation_config,
        tokenizer_folder=Path(folder.name),
        path=file,
        keep_alive=folder,
    )


def _one_line(error: BaseException, limit: int = 300) -> str:
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= limit else line[:limit] + "..."
