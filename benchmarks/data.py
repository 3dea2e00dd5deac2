"""Data preparation: 200 MB of text to blocks, beside ``datasets.map`` and beside the tokenizer alone."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from benchmarks.bench import Bench
from benchmarks.costs import Cost, clpds, cost_of_making, peak, seconds, take_turns, times, told
from benchmarks.table import Row
from benchmarks.text import train_tokenizer, write_corpus
from clpds import provenance
from clpds.vocabulary.tokenizer import ends_of, load_tokenizer

LENGTH = 1024
ALIKE = 100  # blocks that are compared one by one


def measure(bench: Bench) -> list[Row]:
    """As many workers for both as there are cores."""
    text = write_corpus(bench.shared, 1 if bench.quick else 200)
    tokenizer = train_tokenizer(write_corpus(bench.shared, 1 if bench.quick else 20), 4096 if bench.quick else 32_000)
    start, end, _ = ends_of(load_tokenizer(tokenizer))
    workers = len(os.sched_getaffinity(0))
    out, cache, job = bench.folder / "out", bench.folder / "map", bench.folder / "job.json"
    work = {"text": str(text), "tokenizer": str(tokenizer), "start": start, "end": end, "length": LENGTH}
    job.write_text(json.dumps(work | {"workers": workers, "out": str(cache)}))
    results: dict[str, dict[str, Any]] = {}

    def ours() -> Cost:
        words = ["--input", text, "--tokenizer", tokenizer, "--sequence-length", str(LENGTH), "--out", out]
        return cost_of_making(out, clpds("data", *words, "--validation-fraction", "0", "--workers", str(workers)))

    def peer(name: str) -> Cost:
        cost = cost_of_making(cache, [sys.executable, "-m", "benchmarks.data_peers", name, job])
        results[name] = json.loads(job.with_suffix(".result").read_text())
        return cost

    entrants = {"ours": ours, "tokenizer": lambda: peer("tokenizer"), "map": lambda: peer("map")}
    costs = take_turns(entrants, bench.rounds)
    _check(out, results, len(start) + len(end))
    shutil.rmtree(cache)
    size = text.stat().st_size / 1e6
    told_seconds = {name: [cost.seconds for cost in turns] for name, turns in costs.items()}
    peaks = {f"{name}_peak_bytes": peak(turns) for name, turns in costs.items()}
    return [
        Row(
            f"clpds data, {size:.0f} MB of text, {workers} workers",
            _said(costs["ours"], size),
            f"datasets.map twice: {_said(costs['map'], size)}",
            times(costs["map"], costs["ours"]),
            "x",
            ">=",
            2.0,
            {"seconds": told_seconds, **peaks},
        ),
        Row(
            "the tokenizer alone, in the time of clpds data",
            _said(costs["ours"], size),
            f"encode_batch_fast: {_said(costs['tokenizer'], size)}",
            100 / times(costs["ours"], costs["tokenizer"]),
            "%",
        ),
    ]


def _said(costs: list[Cost], megabytes: float) -> str:
    return f"{told(costs)}, {megabytes / seconds(costs):.1f} MB/s"


def _check(out: Path, results: dict[str, dict[str, Any]], added: int) -> None:
    """Tokens and blocks are the same wherever both define the same thing; ValueError else.

    ``map`` cuts each thousand documents by itself and drops the rest of each, so that it has fewer blocks, and the
    same only at the beginning.
    """
    record = provenance.read(out)
    assert record is not None
    counts = record["splits"]["train"]
    if counts["tokens"] - counts["documents"] * added != results["tokenizer"]["tokens"]:
        raise ValueError(f"{counts['tokens']} tokens, the tokenizer alone gives {results['tokenizer']['tokens']}")
    dropped, batches = counts["blocks"] - results["map"]["blocks"], counts["documents"] // 1000 + 16
    if not 0 <= dropped <= batches:
        raise ValueError(f"{counts['blocks']} blocks, datasets.map gives {results['map']['blocks']}")
    ours = datasets.load_from_disk(str(out / "train")).with_format("numpy")[:ALIKE]["input_ids"]
    theirs = datasets.Dataset.from_file(results["map"]["files"][0]).with_format("numpy")[:ALIKE]["input_ids"]
    if not np.array_equal(ours, theirs):
        raise ValueError(f"the first {ALIKE} blocks differ from those of datasets.map")
