"""Saving a training checkpoint beside DeepSpeed's own ``save_checkpoint``."""

import json
import shutil
import statistics

from benchmarks.bench import Bench
from benchmarks.checkpoints import SMOLLM2_135M, random_checkpoint
from benchmarks.costs import cost_of, ratio
from benchmarks.ranks import blocks_of_text, on_ranks, write_recipe
from benchmarks.table import Row
from benchmarks.training_step import LENGTH, RANKS, TINY
from clpds.output import human_bytes


def measure(bench: Bench) -> list[Row]:
    """SmolLM2-135M's shape on two ranks: 12 bytes a parameter."""
    name, config = ("tiny", TINY) if bench.quick else ("135M", SMOLLM2_135M)
    run, out = bench.folder / "run", bench.folder / "seconds.json"
    recipe = write_recipe(
        bench.folder / f"{name}.yaml",
        model=random_checkpoint(bench.folder / name, config),
        data={"text": {"path": blocks_of_text(bench, LENGTH)}},
        out=run,
        steps=1000,
        micro_batch=1,
        global_batch=RANKS,
        deepspeed="cpu.json",
    )
    try:
        cost_of(on_ranks(RANKS, "savers", recipe, 1 if bench.quick else 4, out))
    finally:
        for folder in (run, bench.folder / "theirs"):
            shutil.rmtree(folder, ignore_errors=True)
    seen = json.loads(out.read_text())
    seconds = seen["seconds"]
    middle = {way: statistics.median(seconds[way]) for way in seconds}
    what = f"save of {name}, {human_bytes(seen['bytes'])} on {RANKS} ranks"
    mine = f"{middle['ours']:.2f} s"
    plain, synced = f"save_checkpoint: {middle['theirs']:.2f} s", f"and its files synced: {middle['synced']:.2f} s"
    return [
        Row(what, mine, plain, ratio(seconds["theirs"], seconds["ours"]), "x", ">=", 1, seen),
        Row(
            f"{what}, beside one that survives a power cut",
            mine,
            synced,
            ratio(seconds["synced"], seconds["ours"]),
            "x",
        ),
        Row(
            f"{what}, `asynchronous: true`: share of it that the loop waits",
            f"{middle['asynchronous']:.2f} s",
            f"all of it: {mine}",
            100 * ratio(seconds["asynchronous"], seconds["ours"]),
            "%",
            "<",
            20,
        ),
    ]
