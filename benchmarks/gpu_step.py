"""One way to train a step on one device, in a process of its own: ``python -m benchmarks.gpu_step SETTING OUT.json``.

The step is the trainer's own (``clpds.training.loop.Loop``), its engine the trainer's too. A block of random tokens
stands for the data, so that nothing is read.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from benchmarks.checkpoints import random_weights
from clpds.accelerators import peak_flops
from clpds.data.blocks import IGNORED, Batch
from clpds.objectives.causal import Causal
from clpds.recipe import Corpus, Optimizer, Schedule, Train
from clpds.training.engine import build_engine, build_model, deepspeed_config, forget_forward_passes
from clpds.training.flops import step_flops
from clpds.training.group import process_group
from clpds.training.kernels import take_kernels
from clpds.training.loop import Loop
from clpds.training.metrics import memory_peak
from clpds.training.saving import Position
from clpds.training.setup import Inputs
from launcher.rendezvous import free_port

BYTES_PER_PARAMETER = 18  # under bf16 with float32 master weights, moments and gradients
SHAPES: dict[str, dict[str, Any]] = {
    "toy": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "135M": {
        "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3,
    },
    "1.3B": {
        "vocab_size": 50_304, "hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    # as wide as a model of 7 billion, as deep as the device's memory allows: see `shape`
    "largest": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_attention_heads": 32,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    model: str
    """A key of SHAPES."""
    length: int
    """Tokens in a block."""
    micro_batch: int
    """Blocks that go through the model at once."""
    accumulation: int = 4
    """Micro batches in an optimizer step."""
    documents: int = 1
    """Texts in a block, which do not see each other."""
    attention: Literal["eager", "sdpa", "flex_attention", "flash_attention_2"] = "sdpa"
    checkpointing: bool = False
    """Recompute activations in the backward pass."""
    compiled: Literal["", "torch", "deepcompile"] = ""
    """By engine.compile() with torch's compiler, or with DeepSpeed's passes over the graph as well."""
    kernels: Literal["", "layers", "fused loss", "liger"] = ""
    """Of liger-kernel: the layers', as the trainer takes them; head and cross entropy in one; or both."""
    deepspeed: str = "zero3_bf16.json"
    warm_up: int = 3
    """Steps before the clock starts, the compiler's among them."""
    steps: int = 6
    """Steps that are timed."""


class FusedCausal(Causal):
    """The head and the loss in one kernel: logits never lie in memory."""

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """As ``Causal``; the model's forward, which liger-kernel has replaced, divides the sum by the number given."""
        positions = {"position_ids": batch.position_ids} if self.isolate else {}
        # The forward touches the head's weight without calling the head. DeepSpeed sees that, and gathers it.
        loss = model(
            input_ids=batch.input_ids, labels=batch.labels, use_cache=False, num_items_in_batch=1, **positions
        ).loss
        return loss.float()


class OneBlock:
    """A mixture whose samples are all the same block, so that a loss does not hang on the micro batch's size."""

    def __init__(self, setting: Setting, vocabulary: int) -> None:
        self.sequence_length = setting.length
        ids = torch.randint(0, vocabulary, (1, setting.length), generator=torch.Generator().manual_seed(0))
        positions = torch.arange(setting.length)[None] % -(-setting.length // setting.documents)
        labels = ids.masked_fill(positions == 0, IGNORED)
        self._block = Batch(ids, positions, labels, torch.ones(1, dtype=torch.int64))

    def batch(self, indices: range, *, isolate: bool = True) -> Batch:
        """Rows that are equal."""
        return Batch(*(part.repeat(len(indices), *[1] * (part.dim() - 1)) for part in self._block))


def measure(setting: Setting, device: torch.device) -> dict[str, Any]:
    """Seconds of each timed step, losses of all steps, peak memory and what the model's arithmetic comes to.

    The process group is up. torch.OutOfMemoryError where the device is too small.
    """
    peak = matrix_peak(device)
    if device.type == "cuda":  # what the matrices took is no part of the step's memory
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    config = shape(setting, device)
    stage = _stage(setting)
    options = deepspeed_config(stage, 1)
    if setting.compiled == "deepcompile":
        options["compile"] = {"deepcompile": True}
    if setting.kernels in ("layers", "liger"):
        take_kernels(config.model_type, "liger", device)
    fused = setting.kernels in ("fused loss", "liger")
    if fused:
        _fuse_loss()
    model = build_model(random_weights(config, torch.bfloat16), options, device)
    flops = step_flops(model, setting.length)
    engine = build_engine(model, stage, options, device)
    objective = (FusedCausal if fused else Causal)(isolate=stage.isolate_documents)
    objective.check(engine)
    forget_forward_passes(engine)
    if setting.compiled:
        engine.compile()
    mixture = OneBlock(setting, config.vocab_size)
    loop = Loop(stage, objective, Inputs({}, mixture, {}, Path()), engine, device)  # type: ignore[arg-type]
    position, losses, seconds = Position(), [], []
    while position.step < stage.steps:
        _wait(device)
        begin = time.perf_counter()
        losses.append(loop.step(position, stop=False, written=False).loss)
        _wait(device)
        seconds.append(time.perf_counter() - begin)
    tokens = stage.global_batch * setting.length
    return {
        "setting": asdict(setting),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "parameters": sum(getattr(one, "ds_numel", one.numel()) for one in model.parameters()),
        "tokens": tokens,
        "flops": flops.of(tokens, tokens),
        "matrix_peak": peak,
        "data_sheet_peak": peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None,
        "seconds": seconds[setting.warm_up :],
        "warm_up_seconds": seconds[: setting.warm_up],
        "losses": losses,
        "peak_bytes": memory_peak(device),
    }


def shape(setting: Setting, device: torch.device) -> LlamaConfig:
    """The model's config; of the largest, as many layers as leave a quarter of the memory to activations."""
    fields = SHAPES[setting.model]
    if "num_hidden_layers" not in fields:
        memory = torch.cuda.get_device_properties(device).total_memory
        hidden, inner = fields["hidden_size"], fields["intermediate_size"]
        room = 0.75 * memory / BYTES_PER_PARAMETER - fields["vocab_size"] * hidden
        fields = fields | {"num_hidden_layers": max(1, int(room / (4 * hidden**2 + 3 * hidden * inner)))}
    return LlamaConfig(
        **fields, max_position_embeddings=8192, tie_word_embeddings=True, attn_implementation=setting.attention
    )


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of products of square bfloat16 matrices of random numbers: the best of a few sizes and tries."""
    best = 0.0
    for size in (4096, 8192, 16_384) if device.type == "cuda" else (512,):
        one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        for _ in range(4):  # the first warms up
            _wait(device)
            begin = time.perf_counter()
            for _ in range(10):
                torch.mm(one, other)
            _wait(device)
            best = max(best, 10 * 2 * size**3 / (time.perf_counter() - begin))
    return best


def _stage(setting: Setting) -> Train:
    nothing = Path(os.devnull)  # neither a model nor data is opened
    return Train(
        model=nothing,
        data={"random": Corpus(path=nothing)},
        out=nothing,
        steps=setting.warm_up + setting.steps,
        micro_batch=setting.micro_batch,
        global_batch=setting.micro_batch * setting.accumulation,
        isolate_documents=setting.documents > 1,
        activation_checkpointing=setting.checkpointing,
        deepspeed=Path(setting.deepspeed),
        optimizer=Optimizer(lr=1e-4),
        schedule=Schedule(kind="wsd"),  # a constant rate
    )


def _fuse_loss() -> None:
    """Let liger-kernel replace the forward of transformers' Llama, in this process; ImportError without it."""
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(rope=False, rms_norm=False, swiglu=False, fused_linear_cross_entropy=True)


def _wait(device: torch.device) -> None:
    """For all that the device was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(setting: Setting, out: Path) -> None:
    """Measure as rank 0 of 1; too little memory is a result, any other failure is the process's."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(alone, MASTER_PORT=str(free_port()))
    with process_group() as device:
        try:
            result = measure(setting, device)
        except torch.OutOfMemoryError:
            result = {"setting": asdict(setting), "out_of_memory": True}
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")  # before the group ends, which may fail


if __name__ == "__main__":
    main(Setting(**json.loads(sys.argv[1])), Path(sys.argv[2]))
