"""What benchmarks of training share: real text as blocks, a recipe of one stage, ranks that run it or a peer."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.bench import Bench
from benchmarks.costs import clpds, cost_of
from clpds.data.samples import write_chapters


def on_ranks(ranks: int, module: str, *words: object) -> list[str]:
    """The command that runs ``python -m module words...`` on so many ranks of this machine."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [sys.executable, *torchrun, "-m", module, *(str(word) for word in words)]


def blocks_of_text(bench: Bench, length: int) -> Path:
    """A data folder of the Bible's chapters in German, blocks of ``length`` tokens, made once for all benchmarks."""
    folder = bench.folder.parent / "text"
    out = folder / f"data-{length}"
    if not out.exists():
        text, tokenizer = folder / "de.train.jsonl", folder / "tokenizer"
        folder.mkdir(exist_ok=True)
        write_chapters("de", folder)
        if not tokenizer.exists():
            cost_of(clpds("tokenizer", "--input", text, "--vocab-size", "4096", "--out", tokenizer))
        words = ["--input", text, "--tokenizer", tokenizer, "--sequence-length", str(length), "--out", out]
        cost_of(clpds("data", *words))
    return out


def write_recipe(file: Path, **stage: Any) -> Path:
    """A recipe of one training stage."""
    steps = json.loads(json.dumps({"steps": {"train": {"verb": "train", **stage}}}, default=str))
    file.write_text(yaml.safe_dump(steps, sort_keys=False), encoding="utf-8")
    return file
