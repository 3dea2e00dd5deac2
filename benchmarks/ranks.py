"""What benchmarks of training share: real text as blocks, a recipe of one stage, ranks that run it or a peer."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.bench import Bench
from benchmarks.costs import clpds, cost_of
from benchmarks.text import train_tokenizer, write_corpus


def on_ranks(ranks: int, module: str, *words: object) -> list[str]:
    """The command that calls ``benchmarks.module.main(*words)`` on so many ranks of this machine."""
    threads = ["env", "OMP_NUM_THREADS=1"] if ranks > 1 else []  # as torchrun has it
    return [*threads, sys.executable, "-m", "benchmarks.launch", str(ranks), module, *(str(word) for word in words)]


def blocks_of_text(bench: Bench, length: int) -> Path:
    """A data folder of 1 MB of text, blocks of ``length`` tokens of 4,096, made once for all benchmarks."""
    out = bench.shared / f"data-{length}"
    if not out.exists():
        text = write_corpus(bench.shared, 1)
        words = ["--input", text, "--tokenizer", train_tokenizer(text, 4096), "--sequence-length", str(length)]
        cost_of(clpds("data", *words, "--out", out))
    return out


def write_recipe(file: Path, **stage: Any) -> Path:
    """A recipe of one training stage."""
    steps = json.loads(json.dumps({"steps": {"train": {"verb": "train", **stage}}}, default=str))
    file.write_text(yaml.safe_dump(steps, sort_keys=False), encoding="utf-8")
    return file
