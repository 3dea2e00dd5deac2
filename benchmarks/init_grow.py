"""`init grow`, which makes a model wider, beside loading it, padding its matrices and saving."""

import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig

from benchmarks.bench import Bench
from benchmarks.checkpoints import random_checkpoint
from benchmarks.costs import clpds, cost_of_making, peak, take_turns, times, told
from benchmarks.table import Row
from clpds.checkpoint import open_checkpoint


def measure(bench: Bench) -> list[Row]:
    """A Llama to one and a half times its width, in bfloat16."""
    width, layers, tokens = (256, 2, 1_000) if bench.quick else (2_048, 12, 32_000)
    wider = width * 3 // 2
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 128,
    )
    source = random_checkpoint(bench.folder / f"source-{width}x{layers}", config, torch.bfloat16)
    outs = {name: bench.folder / f"out-{name}" for name in ("clpds", "padded")}
    grow = ["--method", "grow", "--source", source, "--width", str(wider), "--out", outs["clpds"]]
    commands = {
        "clpds": clpds("init", *grow),
        "padded": [
            sys.executable, "-m", "benchmarks.padded", "--source", source, "--out", outs["padded"], f"--width={wider}",
        ],
    }  # fmt: skip
    costs = take_turns(
        {name: lambda name=name: cost_of_making(outs[name], commands[name]) for name in commands}, bench.rounds
    )
    _compare(source, outs["clpds"], outs["padded"])
    size = open_checkpoint(outs["clpds"]).nbytes / 1e9
    for out in outs.values():
        shutil.rmtree(out)
    detail = {name: [vars(cost) for cost in taken] for name, taken in costs.items()}
    ours, theirs = told(costs["clpds"]), told(costs["padded"])
    memory = peak(costs["clpds"]) / 2**30
    what = f"init grow, {width:,} to {wider:,}, {size:.1f} GB"
    return [
        Row(f"{what}, time", ours, theirs, times(costs["padded"], costs["clpds"]), "x", ">=", 2.0, detail),
        Row(f"{what}, peak memory", ours, theirs, memory, "GiB", "<=", 2.5),
    ]


def _compare(source: Path, ours: Path, theirs: Path) -> None:
    """RuntimeError unless both hold the source's matrices in their corners; clpds also rescales the norms."""
    small, grown, padded = (open_checkpoint(folder).tensors for folder in (source, ours, theirs))
    for name, old in small.items():
        if len(old.shape) == 2:
            corner = tuple(slice(length) for length in old.shape)
            held = [model[name].load()[corner] for model in (grown, padded)]
            if not all(torch.equal(one, old.load()) for one in held) or grown[name].shape != padded[name].shape:
                raise RuntimeError(f"{name} of {source} is not in the corner of both")
