"""A training step of clpds on two ranks beside Hugging Face's Trainer and a bare DeepSpeed loop, one DeepSpeed JSON."""

import json
import shutil
import statistics
from itertools import pairwise
from typing import Any

from transformers import LlamaConfig

from benchmarks.bench import Bench
from benchmarks.checkpoints import SMOLLM2_135M, random_checkpoint
from benchmarks.costs import Cost, cost_of, ratio, take_turns
from benchmarks.ranks import blocks_of_text, on_ranks, write_recipe
from benchmarks.table import Row

RANKS = 2
LENGTH = 128
WARM_UP = 4  # steps: two traces of ZeRO-3's prefetching, and the allocator's growth
WAYS = {"ours": "clpds train", "trainer": "Trainer", "bare": "bare loop"}
LEAST = {"trainer": 1.0, "bare": 0.97}
TINY = LlamaConfig(
    vocab_size=4096, hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4
)  # 0.8 million parameters: nothing but overhead


def measure(bench: Bench) -> list[Row]:
    """A tiny model, where only overhead counts, and the shape of SmolLM2-135M."""
    if bench.quick:
        return _rows(bench, "tiny", TINY, steps=9, micro_batch=4, at_least=1)
    # One round alone of the tiny one has shown 0.85x of the bare loop where three runs of two showed 1.02x to 1.09x.
    rows = _rows(bench, "tiny", TINY, steps=40, micro_batch=4, at_least=2)
    return rows + _rows(bench, "135M", SMOLLM2_135M, steps=8, micro_batch=1, at_least=1)


def _rows(bench: Bench, name: str, config: LlamaConfig, *, steps: int, micro_batch: int, at_least: int) -> list[Row]:
    run, told = bench.folder / "run", {way: bench.folder / f"{name}-{way}.json" for way in WAYS}
    recipe = write_recipe(
        bench.folder / f"{name}.yaml",
        model=random_checkpoint(bench.folder / name, config),
        data={"text": {"path": blocks_of_text(bench, LENGTH)}},
        out=run,
        steps=steps,
        micro_batch=micro_batch,
        global_batch=micro_batch * RANKS,
        deepspeed="cpu.json",
        optimizer={"lr": 3e-3},
        schedule={"kind": "wsd"},  # a constant rate
    )
    seen: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}

    def once(way: str) -> Cost:
        shutil.rmtree(run, ignore_errors=True)
        cost = cost_of(on_ranks(RANKS, "steppers", way, recipe, told[way]))
        seen[way].append(json.loads(told[way].read_text()))
        return cost

    take_turns({way: lambda way=way: once(way) for way in WAYS}, bench.rounds, at_least=at_least)
    shutil.rmtree(run, ignore_errors=True)
    for way in LEAST:
        _require_same_losses(way, seen["ours"][0]["losses"], seen[way][0]["losses"])
    spent = {way: [_seconds(one["begun"]) for one in seen[way]] for way in WAYS}
    mine = statistics.median(spent["ours"])
    detail = {"seconds": spent, "tokens": micro_batch * RANKS * LENGTH, "losses": seen["ours"][0]["losses"]}
    return [
        Row(
            f"training step, {name}",
            f"{1000 * mine:.1f} ms",
            f"{WAYS[way]}: {1000 * statistics.median(spent[way]):.1f} ms",
            ratio(spent[way], spent["ours"]),
            "x",
            ">=",
            least,
            detail,
        )
        for way, least in LEAST.items()
    ]


def _seconds(begun: list[float]) -> float:
    """From the beginning of a step to that of the next, logging between them: the median."""
    return statistics.median(later - earlier for earlier, later in pairwise(begun[WARM_UP:]))


def _require_same_losses(way: str, ours: list[float], theirs: list[float]) -> None:
    """RuntimeError unless every step's loss is the same but for the order in which numbers are added up."""
    differences = [abs(one - other) for one, other in zip(ours, theirs, strict=True)]
    if max(differences) > 1e-3:
        raise RuntimeError(f"the losses of {way} differ from ours by up to {max(differences)}: {ours} and {theirs}")
