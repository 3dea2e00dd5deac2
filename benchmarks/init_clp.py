"""`init clp` of a GPT-2-shaped source, beside the published loop, one dense product and mergekit-tokensurgeon."""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.checkpoints import random_checkpoint
from benchmarks.costs import Cost, clpds, cost_of_making, take_turns, times, told
from benchmarks.table import Row
from benchmarks.vocabularies import two_layers, vocabulary
from clpds.checkpoint import open_checkpoint
from clpds.transfer.clp import Variant, clp
from clpds.vocabulary.overlap import Overlap, overlap
from clpds.vocabulary.tokenizer import load_tokenizer

MATRIX = "transformer.wte.weight"
EVERY = 100  # of the missing tokens that the published loop does: one in so many, and its time is scaled up
DIFFERENCE = 1e-5  # of two rows, relative to the largest value of the source's


def measure(bench: Bench) -> list[Row]:
    """Whole commands, then the rows alone."""
    size, width, narrow = (5_000, 256, 128) if bench.quick else (50_257, 1_024, 768)
    source = _model(bench, "source", size, width)
    helper = _model(bench, "helper", size, narrow)
    outs = {name: bench.folder / f"out-{name}" for name in ("clpds", "published", "dense", "tokensurgeon")}
    published = [sys.executable, "-m", "benchmarks.published_clp", f"--source={source}", f"--helper={helper}"]
    commands: dict[str, list[str | Path]] = {
        "clpds": [*clpds("init", "--source", source, "--helper", helper, "--out", outs["clpds"])],
        "published": [*published, f"--every={EVERY}", "--out", outs["published"]],
        "dense": [*published, "--dense", "--out", outs["dense"]],
    }
    if (python := bench.peer("tokensurgeon")) is not None:
        surgeon = python.with_name("mergekit-tokensurgeon")
        commands["tokensurgeon"] = [
            surgeon, source, helper, outs["tokensurgeon"], "-a", "common_interpolation", "-k", "64",
        ]  # fmt: skip
    steps: dict[str, list[float]] = {"published": [], "dense": []}

    def run(name: str) -> Cost:
        cost = cost_of_making(outs[name], commands[name])
        if name in steps:
            step = _step(outs[name])
            more = (EVERY - 1) * step["loop"] if name == "published" else 0.0
            steps[name].append(step["before"] + step["loop"] + more)
            cost = replace(cost, seconds=cost.seconds + more, cpu_seconds=cost.cpu_seconds + more)
        return cost

    entrants: dict[str, Callable[[], Cost]] = {name: lambda name=name: run(name) for name in commands}
    costs = take_turns(entrants, bench.rounds)
    matrices = {name: open_checkpoint(outs[name]).tensors[MATRIX].load() for name in costs}
    shared = overlap(load_tokenizer(source), load_tokenizer(helper))
    difference = _compare(matrices, shared, _step(outs["published"])["made"])
    rows = [
        Row(
            f"init clp, {size:,} x {width:,}, beside {name}",
            told(costs["clpds"]),
            told(costs[name]),
            times(costs[name], costs["clpds"]),
            "x",
            ">=",
            bound,
            {"ours": _told(costs["clpds"]), "peer": _told(costs[name]), "difference": difference, "scaled": EVERY},
        )
        for name, bound in (("published", 300), ("dense", 10), ("tokensurgeon", 5))
        if name in costs
    ]
    for out in outs.values():
        shutil.rmtree(out, ignore_errors=True)
    return rows + _rows_alone(bench, source, helper, shared, steps)


def _model(bench: Bench, name: str, size: int, width: int) -> Path:
    """Two layers of GPT-2 under a vocabulary that shares 40 % of its tokens with the other."""
    words = vocabulary(name, size, size * 2 // 5)
    folder = bench.folder / f"{name}-{size}x{width}"
    tokenizer = words.save(bench.folder / f"tokenizer-{name}-{size}")
    config = two_layers(size, width)
    return random_checkpoint(folder, config, tokenizer=tokenizer, given={MATRIX: words.embedding(name, width)})


def _rows_alone(bench: Bench, source: Path, helper: Path, shared: Overlap, steps: dict[str, list[float]]) -> list[Row]:
    """The new rows from matrices in memory, beside the peers' own, and the products that they take at full speed."""
    S, H = (open_checkpoint(folder).tensors[MATRIX].load() for folder in (source, helper))
    rows = clp(shared, Variant("published"), {"input": H})
    taken = [_timed(lambda: rows(S, "input")) for _ in range(bench.rounds + 2)]
    ours = statistics.median(taken[1:])
    work = 2 * (len(shared.target) + len(shared.missing)) * S.shape[1] * H.shape[1]
    speed = _matrix_speed()
    detail = {"ours": taken, **steps, "operations": work, "operations_per_second": speed}
    shown = f"{ours:.3f} s"
    compared = [
        Row(f"its rows alone, beside {name}", shown, f"{median:,.2f} s", median / ours, "x", sense, bound, detail)
        for name, sense, bound in (("published", ">=", 1000.0), ("dense", None, 0.0))
        for median in [statistics.median(steps[name])]
    ]
    limit = work / speed
    share = f"products at the peak of {speed / 1e9:,.0f} GFLOP/s: {limit:.3f} s"
    return [*compared, Row("its rows alone, of the limit", shown, share, 100 * limit / ours, "%", detail=detail)]


def _compare(matrices: dict[str, Tensor], shared: Overlap, sampled: list[int]) -> float:
    """The largest relative difference to the definition; RuntimeError where it is too large.

    tokensurgeon computes other rows for missing tokens: there only the shared ones are compared.
    """
    ours = matrices["clpds"]
    largest = float(ours[shared.target].abs().max())
    ids = {"published": torch.tensor(sampled), "dense": shared.missing}
    differences = {
        name: float((ours[rows] - matrices[name][rows]).abs().max()) / largest
        for name, missing in ids.items()
        for rows in [torch.cat([shared.target, missing])]
    }
    if "tokensurgeon" in matrices and not torch.equal(ours[shared.target], matrices["tokensurgeon"][shared.target]):
        raise RuntimeError("tokensurgeon does not copy the shared tokens' rows")
    if max(differences.values()) > DIFFERENCE:
        raise RuntimeError(f"the rows differ by {differences}, more than {DIFFERENCE}")
    return max(differences.values())


def _step(out: Path) -> dict[str, Any]:
    """What published_clp says of its rows."""
    step: dict[str, Any] = json.loads((out / "step.json").read_text())
    return step


def _matrix_speed() -> float:
    """Operations a second of a large product in float32, the best of five."""
    size = 4096
    square = torch.randn(size, size)
    return 2 * size**3 / min(_timed(lambda: square @ square) for _ in range(5))


def _timed(work: Callable[[], object]) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def _told(costs: list[Cost]) -> list[dict[str, float]]:
    return [vars(cost) for cost in costs]
