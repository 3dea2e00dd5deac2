"""What a model is, wherever it lies: its config, its tokenizer, its tensors and a sample of their values."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers
import xxhash
from transformers import PretrainedConfig

from clpds import provenance
from clpds.checkpoint import Checkpoint, LazyTensor
from clpds.checkpoint.anatomy import model_class
from clpds.checkpoint.open import read_weights
from clpds.headers import Entry, read_header
from clpds.vocabulary.tokenizer import backend, load_tokenizer, token_ids

PIECE = 4096  # bytes, of the first, the middle and the last elements of a tensor
READERS = 16  # pieces are waited for, not worked on
# Keys of a config that change neither the model nor its loss: who wrote it and with what, what is returned, where a
# text that is generated ends. What `dtype` says is seen in the tensors and in the precision of the training.
NOT_COMPUTED = {
    "_name_or_path", "_commit_hash", "transformers_version", "architectures", "dtype", "torch_dtype",
    "attn_implementation", "_attn_implementation", "use_cache", "return_dict", "output_attentions",
    "output_hidden_states", "chunk_size_feed_forward", "label2id", "task_specific_params", "tokenizer_class",
    "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id",
}  # fmt: skip
DRAWN = "drawn from config and seed"


def model_identity(checkpoint: Checkpoint, tokenizer_folder: Path, *, drawn: bool) -> dict[str, Any]:
    """A model by its config, tokenizer and weights, however its files are cut; plain JSON.

    Of 70 billion parameters 9 MB are read. Weights that are ``drawn`` follow from the config and the run's seed; all
    others are sampled, and the hashes that the folder's record has of its files are noted beside that.
    """
    document = {
        "transformers": transformers.__version__,
        "config": config_identity(checkpoint.config),
        "tokenizer": tokenizer_identity(tokenizer_folder),
    }
    if drawn:
        return document | {"weights": DRAWN}
    path = checkpoint.path
    in_folder = path is not None and path.is_dir()
    tensors = read_weights(path) if path is not None and in_folder else checkpoint.tensors
    return document | {
        "tensors": {
            "number": len(tensors),
            "elements": sum(tensor.numel for tensor in tensors.values()),
            "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
            "names and shapes": _digest([name, list(tensors[name].shape)] for name in sorted(tensors)),
        },
        "weights": _sample(tensors),
        "files": _recorded(path) if path is not None and in_folder else {},
    }


def config_identity(config: PretrainedConfig) -> dict[str, Any]:
    """What of a config changes the computation, as transformers understands it: dotted key to a value that is not None.

    An old spelling and a new one, or a default that is spelt out, are the same.
    """
    document = json.loads(config.to_json_string(use_diff=False))
    return {"class": model_class(config).__name__, **dict(_flat(document))}


def tokenizer_identity(folder: Path) -> dict[str, str]:
    """Hashes of a tokenizer's ids and of its pipeline, whatever its files say beside these."""
    tokenizer = load_tokenizer(folder)
    return {"ids": _digest(token_ids(tokenizer).items()), "pipeline": _digest([backend(tokenizer)])}


def precision(config: Mapping[str, Any]) -> str:
    """What DeepSpeed's JSON says that the model is computed in; nothing else there changes what is learned."""
    kinds = {"bf16": "bfloat16", "fp16": "float16"}
    name = next((kinds[kind] for kind in kinds if (config.get(kind) or {}).get("enabled") is True), "float32")
    autocast = config.get("torch_autocast") or {}
    return f"{name}, autocast to {autocast.get('dtype')}" if autocast.get("enabled") is True else name


def _flat(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if key in NOT_COMPUTED or value is None:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _digest(parts: Any) -> str:
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


def _sample(tensors: Mapping[str, LazyTensor]) -> str:
    """A hash over pieces of every tensor, by their names."""
    files = {tensor.stored[0] for tensor in tensors.values() if tensor.stored}
    headers = {file: read_header(file) for file in files}
    digest = xxhash.xxh3_128()
    with ThreadPoolExecutor(READERS) as pool:
        names = sorted(tensors)
        for name, piece in zip(names, pool.map(lambda name: _pieces(tensors[name], headers), names), strict=True):
            digest.update(name.encode() + b"\0" + piece)
    return digest.hexdigest()


def _pieces(tensor: LazyTensor, headers: Mapping[Path, Mapping[str, Entry]]) -> bytes:
    """The bytes of the first, the middle and the last elements; all, where there are few."""
    count = PIECE // tensor.dtype.itemsize
    last = max(tensor.numel - count, 0)
    starts = sorted({0, last // 2, last})
    if tensor.stored is None:
        values = [tensor.flat(start, min(start + count, tensor.numel)) for start in starts]
        return b"".join(value.contiguous().view(torch.uint8).numpy().tobytes() for value in values)
    file, name = tensor.stored
    place = headers[file][name].start
    length = min(count, tensor.numel) * tensor.dtype.itemsize
    found = b""
    with file.open("rb", buffering=0) as stream:  # not by rows: one of stacked experts may have 50 MB
        for start in starts:
            stream.seek(place + start * tensor.dtype.itemsize)
            found += stream.read(length)
    return found


def _recorded(folder: Path) -> dict[str, tuple[int, str]]:
    """Size, and SHA-256 as the folder's record has it, of its weight files."""
    files: dict[str, str] = (provenance.read(folder) or {}).get("files", {})
    return {
        name: ((folder / name).stat().st_size, digest)
        for name, digest in sorted(files.items())
        if name.endswith((".safetensors", ".bin")) and (folder / name).is_file()
    }
