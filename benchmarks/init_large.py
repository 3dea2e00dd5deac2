"""`init` of models of 7 billion parameters: time beside `cp -r`, memory, links, and how both grow."""

import shutil
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from transformers import BloomConfig, LlamaConfig, PretrainedConfig

from benchmarks.bench import Bench
from benchmarks.checkpoints import random_checkpoint, random_weights
from benchmarks.costs import Cost, clpds, cost_of, cost_of_making, peak, seconds, take_turns, times, told
from benchmarks.growth import by_bytes
from benchmarks.table import Row
from benchmarks.vocabularies import two_layers, vocabulary
from clpds.checkpoint import anatomy, open_checkpoint
from clpds.vocabulary.overlap import Overlap, overlap
from clpds.vocabulary.tokenizer import load_tokenizer

COMPARED = 10  # one untouched tensor in so many is read again


@dataclass(frozen=True)
class Sizes:
    """What is built: as large as what it is named after, or tiny."""

    width: int
    feed_forward: int
    layers: tuple[int, ...]
    """Of the Llama; the last is the 7B's."""
    llama: int
    """Tokens of the Llama."""
    target: int
    """Tokens of the target, 40 % of them in either source."""
    vocabularies: tuple[int, ...]
    """Of targets for the Llama of fewest layers."""
    shard: str


LARGE = Sizes(4_096, 11_008, (4, 8, 32), 32_000, 50_257, (32_000, 256_000), "1GB")
SMALL = Sizes(128, 256, (2, 8), 1_500, 2_000, (4_000,), "500KB")
BLOOM = BloomConfig(vocab_size=250_880, hidden_size=LARGE.width, n_layer=30, n_head=32)
LLAMA_70B = LlamaConfig(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_key_value_heads=8)


def measure(bench: Bench) -> list[Row]:
    """Both models beside `cp -r`, then depths and vocabularies. One 7B at a time is on the disk."""
    sizes = SMALL if bench.quick else LARGE
    rows = [] if bench.quick else _beside_cp(bench, sizes, "BLOOM-7B1", BLOOM, rounds=bench.rounds)
    points = {}
    for number in sizes.layers[:-1]:
        source, helper = _source(bench, sizes, _llama(sizes, number)), _helper(bench, sizes.target)
        points[_bytes(source)] = _init(bench, source, helper)
        shutil.rmtree(source)
    rows += _beside_cp(bench, sizes, "Llama-7B", _llama(sizes, sizes.layers[-1]), rounds=1, points=points)
    growth = by_bytes("init clp", points, "70B", random_weights(LLAMA_70B, torch.bfloat16).nbytes)
    return [*rows, *growth, *_by_vocabulary(bench, sizes)]


def _beside_cp(
    bench: Bench,
    sizes: Sizes,
    name: str,
    config: PretrainedConfig,
    rounds: int,
    points: dict[int, Cost] | None = None,
) -> list[Row]:
    source, helper = _source(bench, sizes, config), _helper(bench, sizes.target)
    copy = bench.folder / "copy"

    def cp() -> Cost:
        cost = cost_of(["cp", "-r", source, copy])
        shutil.rmtree(copy)
        return cost

    entrants = {"init": lambda: _init(bench, source, helper), "cp": cp}
    costs = take_turns(entrants | {"link": lambda: _init(bench, source, helper, "--link")}, rounds)
    if points is not None:
        points[_bytes(source)] = costs["init"][0]
    detail = {kind: [vars(cost) for cost in taken] for kind, taken in costs.items()} | {"bytes": _bytes(source)}
    what, size = f"init clp of {name}'s shape", f"{_bytes(source) / 1e9:.1f} GB"
    shutil.rmtree(source)
    ours, peer = f"{seconds(costs['init']):.1f} s", f"cp -r of {size}: {seconds(costs['cp']):.1f} s"
    linked, highest = seconds(costs["link"]), peak(costs["init"]) / 2**30
    return [
        Row(f"{what}, time", ours, peer, times(costs["init"], costs["cp"]), "x", "<=", 1.5, detail),
        Row(f"{what}, peak memory", f"{highest:.2f} GiB", "", highest, "GiB", "<=", 2.5),
        Row(f"{what}, --link, shards of {sizes.shard}", f"{linked:.1f} s", peer, linked, "s", "<=", 15.0),
    ]


def _by_vocabulary(bench: Bench, sizes: Sizes) -> list[Row]:
    """Memory and time as the target's vocabulary grows; nothing is asked, both follow it. A narrower source does."""
    narrow = replace(sizes, width=sizes.width // 4)
    source, rows = _source(bench, narrow, _llama(narrow, narrow.layers[0])), []
    for target in sizes.vocabularies:
        cost = _init(bench, source, _helper(bench, target))
        rows.append(
            Row(
                f"init clp of width {narrow.width:,} to {target:,} tokens",
                told([cost]),
                "",
                cost.peak_bytes / 2**30,
                "GiB",
                detail=vars(cost),
            )
        )
    shutil.rmtree(source)
    return rows


def _llama(sizes: Sizes, layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=sizes.llama,
        hidden_size=sizes.width,
        intermediate_size=sizes.feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=max(1, sizes.width // 128),
        bos_token_id=0,
        eos_token_id=0,
    )


def _source(bench: Bench, sizes: Sizes, config: PretrainedConfig) -> Path:
    """bfloat16; as few of its tokens as possible are the target's too, so that most rows are made."""
    name = config.model_type
    shared = min(sizes.target, config.vocab_size) * 2 // 5
    tokenizer = vocabulary(name, config.vocab_size, shared).save(bench.folder / f"tokenizer-{name}-{config.vocab_size}")
    folder = bench.folder / f"{name}-{config.num_hidden_layers}"
    return random_checkpoint(folder, config, torch.bfloat16, tokenizer=tokenizer, shard=sizes.shard)


def _helper(bench: Bench, tokens: int) -> Path:
    width = 64 if bench.quick else 768
    words = vocabulary("helper", tokens, tokens * 2 // 5)
    config = two_layers(tokens, width)
    tokenizer = words.save(bench.folder / f"tokenizer-helper-{tokens}")
    given = {"transformer.wte.weight": words.embedding("helper", width)}
    return random_checkpoint(bench.folder / f"helper-{tokens}", config, tokenizer=tokenizer, given=given)


def _init(bench: Bench, source: Path, helper: Path, *options: str) -> Cost:
    """Run, compare with the source, remove."""
    out = bench.folder / "out"
    cost = cost_of_making(out, clpds("init", "--source", source, "--helper", helper, "--out", out, *options))
    _compare(source, helper, out)
    if "--link" in options and not any(file.stat().st_nlink > 1 for file in out.glob("*.safetensors")):
        raise RuntimeError(f"{out} shares no file with {source}")
    shutil.rmtree(out)
    return cost


def _compare(source: Path, helper: Path, out: Path) -> None:
    """RuntimeError unless the body and the shared tokens' rows are the source's."""
    before, after = open_checkpoint(source), open_checkpoint(out)
    vocabulary_names = anatomy(before.config).vocabulary
    for name in [name for name in before.tensors if name not in vocabulary_names][::COMPARED]:
        if not torch.equal(before.tensors[name].load(), after.tensors[name].load()):
            raise RuntimeError(f"{out}: {name} is not the source's")
    shared = _shared(source, helper)
    for name in vocabulary_names:
        old, new = before.tensors[name], after.tensors[name]
        if not torch.equal(old.load()[shared.source[::COMPARED]], new.load()[shared.target[::COMPARED]]):
            raise RuntimeError(f"{out}: the shared rows of {name} are not the source's")


@lru_cache(maxsize=1)  # the same for both ways of one source
def _shared(source: Path, helper: Path) -> Overlap:
    return overlap(load_tokenizer(source), load_tokenizer(helper))


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
