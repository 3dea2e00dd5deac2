"""``python -m benchmarks.gpu``: what a training step reaches on one CUDA device, of what its matrix products reach.

ZeRO-3 in bfloat16; models of 135M, 1.3B and the largest that fits; blocks of 2,048 and 8,192 tokens; the plain step,
and beside it activation checkpointing, compilers, fused kernels and back ends of attention, each alone and the quick
ones together. Every way runs in a process of its own. What is in OUT is not measured again, so that the command can be
cut into pieces (``--models``, ``--lengths``) and goes on where it stopped.

``--toy`` runs the same at a size for a CPU: to see that it runs, not what it costs.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_step import Setting
from clpds.output import human_bytes

Model = Literal["135M", "1.3B", "largest"]
LENGTHS = (2048, 8192)
TOKENS_AT_ONCE = {"135M": 32_768, "1.3B": 16_384, "largest": 8192}  # halved until they fit
COMPARED = 3  # steps whose losses are compared with the CPU's
ALLOWED = 2**-7  # of a loss: twice bfloat16's rounding
TOY = Setting("toy", 64, 2, accumulation=2, documents=4, checkpointing=True, warm_up=1, steps=2)
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


@dataclass(frozen=True)
class Options:
    """Measure the training step on one CUDA device."""

    models: tuple[Model, ...] = ("135M", "1.3B", "largest")
    """Which; each takes some ten minutes."""
    lengths: tuple[int, ...] = LENGTHS
    """Tokens in a block."""
    out: Path = Path("runs/benchmarks/gpu")
    """A JSON file for every measurement."""
    toy: bool = False
    """On a CPU, at a size of seconds."""


def main(options: Options) -> int:
    """Measure, compare losses with the CPU's, print the table; 1 where a loss is another."""
    console = Console(stderr=True, highlight=False)
    if not options.toy and not torch.cuda.is_available():
        console.print("no CUDA device here; --toy runs the same on a CPU")
        return 2
    for package in ("liger_kernel", "flash_attn"):
        if not find_spec(package):
            console.print(f"{package} is not installed: its rows are left out")
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    for setting in [TOY] if options.toy else settings(options.models, options.lengths):
        console.print(f"{setting.model}, {setting.length} tokens: {name(setting)}")
        results.append(at_largest_batch(setting, options.out, environment=CPU_ONLY if options.toy else {}))
    references = {key: on_cpu(key, options.out) for key in compared(results)}
    show(results, references)
    wrong = [one for one in results if differs(one, references)]
    for one in wrong:
        console.print(f"the losses of {one['setting']} are not the CPU's: {one['losses'][:COMPARED]}")
    return 1 if wrong else 0


def settings(models: tuple[Model, ...], lengths: tuple[int, ...]) -> Iterator[Setting]:
    """All that is measured on a CUDA device, from the plain step on."""
    for model in models:
        for length in lengths:
            # The largest fills the memory with its states: activations have to be recomputed.
            plain = Setting(model, length, TOKENS_AT_ONCE[model] // length, checkpointing=model == "largest")
            yield plain
            yield replace(plain, compiled="torch")
            if find_spec("liger_kernel"):
                yield replace(plain, kernels="layers")
                yield replace(plain, kernels="fused loss")
                yield replace(plain, kernels="liger")
                yield replace(plain, kernels="fused loss", compiled="torch")
            if model != "largest":  # whose weights alone take a minute to draw
                yield from _rare(plain)


def _rare(plain: Setting) -> Iterator[Setting]:
    """What a smaller model tells as well."""
    packed = replace(plain, documents=4)
    yield packed
    yield replace(packed, attention="flex_attention")
    if find_spec("liger_kernel"):
        yield replace(packed, attention="flex_attention", kernels="layers")
    if find_spec("flash_attn"):
        yield replace(plain, attention="flash_attention_2")
        yield replace(packed, attention="flash_attention_2")
    yield replace(plain, checkpointing=True)
    yield replace(plain, compiled="deepcompile")
    if find_spec("liger_kernel"):
        yield replace(plain, kernels="liger", micro_batch=2 * plain.micro_batch)  # the logits' room


def at_largest_batch(setting: Setting, out: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The measurement with this micro batch, or the largest half of it that fits; or why there is none."""
    while True:
        result = measured(setting, out, environment)
        if not result.get("out_of_memory") or setting.micro_batch == 1:
            return result
        setting = replace(setting, micro_batch=setting.micro_batch // 2)


def measured(setting: Setting, out: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What a process of its own found, now or in an earlier run of this command."""
    words = json.dumps(asdict(setting))
    where = "cpu" if environment else "cuda"
    file = out / f"{setting.model}-{setting.length}-{where}-{sha256(words.encode()).hexdigest()[:12]}.json"
    if not file.exists():
        command = [sys.executable, "-m", "benchmarks.gpu_step", words, str(file)]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
        if not file.exists():
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"status {done.returncode}"]
            (out / f"{file.stem}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
            return {"setting": asdict(setting), "failed": last[0]}
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


Key = tuple[str, int, int]
"""Model, tokens in a block, documents in it: what decides the losses."""


def key_of(result: dict[str, Any]) -> Key:
    """Which reference the losses of a measurement are compared with."""
    setting = result["setting"]
    return setting["model"], setting["length"], setting["documents"]


def compared(results: list[dict[str, Any]]) -> set[Key]:
    """Those of the small models: the others would take the CPU too long."""
    return {key_of(one) for one in results if "losses" in one and one["setting"]["model"] in ("toy", "135M")}


def on_cpu(key: Key, out: Path) -> list[float]:
    """The losses of the first steps in float32 on the CPU; RuntimeError where there are none."""
    model, length, documents = key
    setting = Setting(model, length, 1, accumulation=1, documents=documents, deepspeed="cpu.json", warm_up=0)
    result = measured(replace(setting, steps=COMPARED), out, CPU_ONLY)
    if "losses" not in result:
        raise RuntimeError(f"nothing to compare losses with: on the CPU {setting} {result}")
    losses: list[float] = result["losses"]
    return losses


def differs(result: dict[str, Any], references: dict[Key, list[float]]) -> bool:
    """Whether the first losses are not the CPU's within bfloat16; False where nothing is to be compared."""
    pairs = zip(result.get("losses", []), references.get(key_of(result), []), strict=False)
    return any(mine is None or abs(mine - reference) > ALLOWED * reference for mine, reference in pairs)


def name(setting: Setting) -> str:
    """What is special about it, in words."""
    parts = [
        setting.attention,
        f"{setting.documents} documents" if setting.documents > 1 else "",
        "checkpointing" if setting.checkpointing else "",
        {"": "", "torch": "torch.compile", "deepcompile": "DeepCompile"}[setting.compiled],
        {"": "", "layers": "liger's layers", "fused loss": "liger's loss", "liger": "liger's layers and loss"}[
            setting.kernels
        ],
    ]
    return ", ".join(part for part in parts if part)


def show(results: list[dict[str, Any]], references: dict[Key, list[float]]) -> None:
    """The table: a row a measurement."""
    done = [one for one in results if "seconds" in one]
    peak = max((one["matrix_peak"] for one in done), default=0.0)
    title = f"{done[0]['device']}, torch {done[0]['torch']}, matrix products {peak / 1e12:.3g} TFLOP/s" if done else ""
    columns = ("model", "tokens", "blocks", "how", "tokens/s", "of measured peak", "of data sheet", "memory", "as CPU")
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE)
    for one in results:
        setting = Setting(**one["setting"])
        head = setting.model, str(setting.length), str(setting.micro_batch), name(setting)
        if "seconds" not in one:
            table.add_row(*head, "out of memory" if one.get("out_of_memory") else one["failed"])
            continue
        seconds = statistics.median(one["seconds"])
        rate, sheet = one["flops"] / seconds, one["data_sheet_peak"]
        table.add_row(
            *head,
            f"{one['tokens'] / seconds:,.0f}",
            f"{100 * rate / peak:.1f} %",
            f"{100 * rate / sheet:.1f} %" if sheet else "",
            human_bytes(one["peak_bytes"]),
            ("no" if differs(one, references) else "yes") if key_of(one) in references else "",
        )
    Console(highlight=False, markup=False).print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
