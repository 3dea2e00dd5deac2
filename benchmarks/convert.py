"""``clpds convert`` of ZeRO-3 checkpoints beside DeepSpeed's zero_to_fp32.py, and beside copying what is written."""

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaConfig

from benchmarks.bench import Bench
from benchmarks.checkpoints import random_checkpoint, random_weights
from benchmarks.costs import Cost, clpds, cost_of, cost_of_making, peak, seconds, take_turns, times
from benchmarks.growth import by_bytes
from benchmarks.ranks import blocks_of_text, on_ranks, write_recipe
from benchmarks.table import Row
from clpds.checkpoint.safetensors import read_safetensors
from clpds.output import human_bytes

ALLOWED = 600 * 10**6  # bytes over 1.2 times the largest tensor: the interpreter and its libraries


@dataclass(frozen=True)
class Case:
    """A checkpoint of a Llama of ``layers`` layers, written by so many ranks."""

    layers: int
    ranks: int


def measure(bench: Bench) -> list[Row]:
    """0.5 billion parameters on 2 ranks and on 8, and two more depths on 2."""
    cases = [Case(2, 2)] if bench.quick else [Case(10, 2), Case(24, 2), Case(24, 8), Case(40, 2)]
    points: dict[int, Cost] = {}
    rows = [row for case in cases for row in _rows(bench, case, points)]
    if bench.quick:  # no line goes through one size
        return rows
    return rows + by_bytes("convert of 2 ranks", points, "7B", random_weights(LlamaConfig(), torch.float32).nbytes)


def _rows(bench: Bench, case: Case, points: dict[int, Cost]) -> list[Row]:
    """Those of one checkpoint; of 2 ranks its cost is added to ``points`` by the bytes that are written."""
    width = 256 if bench.quick else 1024
    # Untied: DeepSpeed's script fails on tied weights when it writes safetensors.
    config = LlamaConfig(
        vocab_size=48 * width, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=case.layers
    )
    run = _checkpointed(bench, config, case)
    checkpoint = next((run / "checkpoints").glob("step-*"))
    ours, theirs, copy = (bench.folder / name for name in ("ours", "theirs", "copy"))
    script = [sys.executable, "-m", "deepspeed.utils.zero_to_fp32", checkpoint.parent, theirs]
    commands = {
        ours: clpds("convert", checkpoint, ours, "--dtype", "float32"),
        theirs: [*script, "--tag", checkpoint.name, "--safe_serialization"],
        copy: ["cp", "-r", "--reflink=never", ours, copy],
    }

    def once(out: Path) -> Cost:
        _read(checkpoint)
        return cost_of_making(out, commands[out])

    costs = take_turns({str(out): partial(once, out) for out in commands}, rounds=1)
    _require_same(ours, theirs)
    written = sum(file.stat().st_size for file in ours.glob("*.safetensors"))
    mine, peer, limit = costs[str(ours)], costs[str(theirs)], costs[str(copy)]
    if case.ranks == 2:
        points[written] = mine[0]
    for out in commands:
        shutil.rmtree(out)
    parameters = written // 4
    what = f"convert {parameters / 1e9:.2g}B of {case.ranks} ranks"
    largest = 4 * config.vocab_size * width
    detail = {
        "seconds": {name: [cost.seconds for cost in each] for name, each in costs.items()},
        "cpu_seconds": {name: [cost.cpu_seconds for cost in each] for name, each in costs.items()},
        "peak_bytes": {name: peak(each) for name, each in costs.items()},
        "parameters": parameters,
    }
    shown = f"{seconds(mine):.1f} s, {human_bytes(peak(mine))}"
    script_shown = f"zero_to_fp32.py: {seconds(peer):.1f} s, {human_bytes(peak(peer))}"
    copied = f"cp of the result: {seconds(limit):.1f} s"
    return [
        Row(what, shown, script_shown, times(peer, mine), "x", ">=", 2, detail),
        Row(f"{what}, beside the limit", shown, copied, times(mine, limit), "x"),
        Row(
            f"{what}, peak memory",
            human_bytes(peak(mine)),
            f"largest tensor: {human_bytes(largest)}",
            peak(mine) / 2**30,
            "GiB",
            "<=",
            (1.2 * largest + ALLOWED) / 2**30,
        ),
    ]


def _checkpointed(bench: Bench, config: LlamaConfig, case: Case) -> Path:
    """The run of one checkpoint in bfloat16, as `clpds train` leaves it; made once."""
    folder = bench.folder
    run = folder / f"run-{config.hidden_size}-{case.layers}-{case.ranks}"
    if not (run / "checkpoints" / "latest").exists():
        model = random_checkpoint(folder / f"model-{config.hidden_size}-{case.layers}", config, torch.bfloat16)
        stage = {"model": model, "data": {"text": {"path": blocks_of_text(bench, 32)}}, "out": run}
        stage |= {"steps": 1, "micro_batch": 1, "global_batch": case.ranks, "deepspeed": "zero3_bf16.json"}
        cost_of(on_ranks(case.ranks, "unstepped", write_recipe(folder / "recipe.yaml", **stage)))
        shutil.rmtree(model)
    return run


def _read(checkpoint: Path) -> None:
    """Have the system keep the files in memory, or the first of the commands alone waits for the disk.

    A checkpoint of 0.77 billion took 13.8 s in such a turn, and 7.3 and 7.6 s in the next ones.
    """
    for file in checkpoint.iterdir():
        with file.open("rb", buffering=0) as opened:
            while opened.read(2**24):
                pass


def _require_same(ours: Path, theirs: Path) -> None:
    """RuntimeError unless the weights of the two folders are the same to the last bit."""
    one, other = (
        {name: tensor for file in folder.glob("*.safetensors") for name, tensor in read_safetensors(file).items()}
        for folder in (ours, theirs)
    )
    if one.keys() != other.keys():
        raise RuntimeError(f"{ours} and {theirs} hold tensors of different names: {one.keys() ^ other.keys()}")
    for name, tensor in one.items():
        if not torch.equal(tensor.load(), other[name].load()):
            raise RuntimeError(f"{name} differs between {ours} and {theirs}")
