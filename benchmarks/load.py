"""Loading a model of a billion parameters under ZeRO-3, beside ``from_pretrained`` under ``zero.Init``."""

import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from benchmarks.bench import Bench
from benchmarks.checkpoints import random_checkpoint
from benchmarks.costs import Cost, cost_of, ratio, take_turns
from benchmarks.ranks import on_ranks
from benchmarks.table import Row
from clpds.output import human_bytes

RANKS = 2
ALLOWED = 600 * 10**6  # bytes over a rank's part of the model and the largest tensor
SHAPE = LlamaConfig(
    vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
    num_key_value_heads=8, tie_word_embeddings=True,
)  # fmt: skip
SMALL = LlamaConfig(vocab_size=16_384, hidden_size=256, intermediate_size=1024, num_hidden_layers=4)


def measure(bench: Bench) -> list[Row]:
    """From a disk whose cache knows nothing of the file: bfloat16, two ranks."""
    config = SMALL if bench.quick else SHAPE
    model = random_checkpoint(bench.folder / f"model-{config.hidden_size}", config, torch.bfloat16)
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    seen: dict[str, list[list[dict[str, Any]]]] = {"ours": [], "theirs": []}

    def once(way: str) -> Cost:
        _forget(model)
        cost = cost_of(on_ranks(RANKS, "loaders", way, model, bench.folder))
        seen[way].append([json.loads((bench.folder / f"{rank}.json").read_text()) for rank in range(RANKS)])
        return cost

    take_turns({way: lambda way=way: once(way) for way in seen}, bench.rounds)
    for rank in range(RANKS):
        hashes = {way: seen[way][0][rank]["hashes"] for way in seen}
        if hashes["ours"] != hashes["theirs"]:
            raise RuntimeError(f"rank {rank} does not hold the same parameters: {hashes}")
    seconds = {way: [ranks[0]["seconds"] for ranks in seen[way]] for way in seen}
    growth = {way: max(rank["growth"] for ranks in seen[way] for rank in ranks) for way in seen}
    # Ours asks with read calls. Theirs touches a mapped file, which the disk alone sees: what it read ahead included.
    key = {"ours": "asked", "theirs": "from_disk"}
    read = {way: max(rank[key[way]] for ranks in seen[way] for rank in ranks) for way in seen}
    largest = 2 * config.vocab_size * config.hidden_size
    mine, theirs = (statistics.median(seconds[way]) for way in ("ours", "theirs"))
    detail = {"seconds": seconds, "growth": growth, "bytes_read": read, "file_bytes": size}
    what = f"ZeRO-3 load, {size / 2e9:.2g}B on {RANKS} ranks"
    peer = "from_pretrained"
    bound = (size / RANKS + largest + ALLOWED) / 2**30
    shown = {way: human_bytes(growth[way]) for way in growth}
    share = {way: 100 * read[way] / size for way in read}
    return [
        Row(
            what,
            f"{mine:.1f} s",
            f"{peer}: {theirs:.1f} s",
            ratio(seconds["theirs"], seconds["ours"]),
            "x",
            ">=",
            2,
            detail,
        ),
        Row(
            f"{what}, share of the file that a rank reads",
            f"{share['ours']:.1f} %",
            f"{peer}: {share['theirs']:.1f} %",
            share["ours"],
            "%",
            "<=",
            100 / RANKS + 1,
        ),
        Row(
            f"{what}, memory of a rank over the imports",
            shown["ours"],
            f"{peer}: {shown['theirs']}",
            growth["ours"] / 2**30,
            "GiB",
            "<=",
            bound,
        ),
    ]


def _forget(folder: Path) -> None:
    """Let the system drop what it has kept of the folder's files."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
