"""What grows with the ranks: bytes read, written and sent, and messages; counted, since two cores tell no seconds."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from benchmarks.bench import Bench
from benchmarks.checkpoints import random_checkpoint
from benchmarks.costs import cost_of
from benchmarks.ranks import blocks_of_text, on_ranks, write_recipe
from benchmarks.table import Row

MICRO_BATCHES = 4  # of a rank in a step
CONFIG = LlamaConfig(
    vocab_size=4096, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4
)  # 4.7M parameters


def measure(bench: Bench) -> list[Row]:
    """The same stage of three steps on more and more ranks; a rank's four micro batches of one block stay."""
    ranks = (2,) if bench.quick else (1, 2, 8)
    model, data = random_checkpoint(bench.folder / "model", CONFIG), blocks_of_text(bench, 64)
    weights = (model / "model.safetensors").stat().st_size
    found = {number: _train(bench.folder, model, data, number) for number in ranks}
    most, fewest = ranks[-1], 2  # one alone sends nothing
    rows = []
    for number, told in found.items():
        said = (
            f"reads {_mb(told['read'])}, writes {_mb(told['written'])}, a micro batch: {told['calls']:.0f} collective "
            f"calls, {_mb(told['sent'])} sent"
        )
        share = told["read"] * number / weights
        rows.append(Row(f"{number} ranks: read by one x ranks / file", said, "", share, "x", "<=", 1.05, told))
    grown = {key: found[most][key] / found[fewest][key] for key in ("calls", "sent")}
    written = found[most]["written"] * most / (found[ranks[0]]["written"] * ranks[0])
    return [
        *rows,
        Row(f"{most} ranks: written by one x ranks / of {ranks[0]}", _mb(found[most]["written"]), "", written, "x"),
        Row(f"collective calls of a micro batch, {most} ranks / {fewest}", "", "", grown["calls"], "x", "<=", 1.1),
        Row(f"bytes sent for a micro batch, {most} ranks / {fewest}", "", f"(N - 1) / N: {_ring(most, fewest):.2f}x",
            grown["sent"] / _ring(most, fewest), "x", "<=", 1.1),
    ]  # fmt: skip


def _ring(more: int, fewer: int) -> float:
    """By how much a rank sends more in a ring that is longer, the tensor being the same."""
    return ((more - 1) / more) / ((fewer - 1) / fewer)


def _mb(size: float) -> str:
    return f"{size / 1e6:.2f} MB"


def _train(folder: Path, model: Path, data: Path, ranks: int) -> dict[str, float]:
    """Of the rank that has most of each: bytes read at load, bytes written at a save; a micro batch's messages."""
    run, counted = folder / f"run-{ranks}", folder / f"counted-{ranks}.json"
    shutil.rmtree(run, ignore_errors=True)
    recipe = write_recipe(
        folder / f"recipe-{ranks}.yaml",
        model=model,
        data={"text": {"path": data}},
        out=run,
        steps=3,
        micro_batch=1,
        global_batch=MICRO_BATCHES * ranks,
        deepspeed="cpu.json",
        saving={"every": 3},
        validation={"every": None},
    )
    cost_of(on_ranks(ranks, "counted_rank", recipe, counted))
    told = [json.loads(Path(f"{counted}.{rank}").read_text()) for rank in range(ranks)]
    return {
        "read": max(one["start"].get("read_bytes", 0) for one in told),
        "written": max(_written(run / "checkpoints" / "step-00000003", rank) for rank in range(ranks)),
        "calls": _largest(told, "step", "calls") / MICRO_BATCHES,
        "sent": _largest(told, "step", "sent_bytes") / MICRO_BATCHES,
        "start_calls": _largest(told, "start", "calls"),
        "save_calls": _largest(told, "save", "calls"),
        "save_sent": _largest(told, "save", "sent_bytes"),
    }


def _largest(told: list[dict[str, Any]], when: str, what: str) -> int:
    return max(one[when].get(what, 0) for one in told)


def _written(checkpoint: Path, rank: int) -> int:
    """Bytes of the files that bear the rank's number."""
    sizes = [file.stat().st_size for file in checkpoint.iterdir() if re.search(rf"zero_pp_rank_{rank}_", file.name)]
    return sum(sizes)
