"""Load a model under ZeRO-3, on a rank of a group: ``python -m benchmarks.launch N loaders ours|theirs MODEL OUT``.

Every rank writes OUT/RANK.json: seconds, bytes read, its memory's growth, and a hash of its part of each parameter.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.integrations import HfDeepSpeedConfig

from clpds.checkpoint import open_checkpoint
from clpds.resources import find
from clpds.training.engine import build_model
from clpds.training.group import process_group


def ours(model: Path, config: dict[str, Any], device: torch.device) -> PreTrainedModel:
    """What `clpds train` does."""
    return build_model(open_checkpoint(model), config, device)


def theirs(model: Path, config: dict[str, Any], device: torch.device) -> PreTrainedModel:
    """``from_pretrained`` under ``zero.Init``, which it enters while an HfDeepSpeedConfig lives."""
    alive = HfDeepSpeedConfig(config)
    loaded = LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    del alive
    return loaded


def main(way: str, model: str, out: str) -> None:
    """Load, then write what this rank saw."""
    config = json.loads(find("ds_configs", Path("zero3_bf16.json")).read_text(encoding="utf-8"))
    config |= {"train_micro_batch_size_per_gpu": 1}
    with process_group() as device:
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        asked, from_disk = _read("rchar"), _read("read_bytes")
        dist.barrier()
        begin = time.perf_counter()
        loaded = {"ours": ours, "theirs": theirs}[way](Path(model), config, device)
        dist.barrier()
        seen = {
            "seconds": time.perf_counter() - begin,
            "asked": _read("rchar") - asked,
            "from_disk": _read("read_bytes") - from_disk,
            "growth": _memory("VmHWM") - before,
            "hashes": {name: _hash(parameter.ds_tensor.data) for name, parameter in loaded.named_parameters()},
        }
        (Path(out) / f"{dist.get_rank()}.json").write_text(json.dumps(seen))
        dist.barrier()


def _memory(key: str) -> int:
    """Bytes, of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _read(key: str) -> int:
    """Bytes: ``rchar`` asked of the system, ``read_bytes`` had from the disk, mapped files too."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _hash(tensor: torch.Tensor) -> str:
    return xxhash.xxh3_64_hexdigest(tensor.contiguous().view(torch.uint8).numpy().data)
