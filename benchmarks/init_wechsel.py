"""`init wechsel` beside the published package, with the same fastText files and dictionary."""

import shutil
from pathlib import Path

import torch
from gensim.models.fasttext import FastText, save_facebook_model

from benchmarks.bench import Bench
from benchmarks.checkpoints import random_checkpoint
from benchmarks.costs import clpds, cost_of_making, take_turns, times, told
from benchmarks.table import Row
from benchmarks.vocabularies import Vocabulary, two_layers, vocabulary
from clpds.checkpoint import open_checkpoint
from clpds.transfer.vocabulary_swap import parts

PAIRS = 5_000  # of the dictionary
DIFFERENCE = 1e-3  # of a row, relative to its length: float32 beside the package's float64
ALIKE = 0.99  # share of rows; where the tenth and eleventh neighbour are as near, either may be taken
PEER = Path(__file__).with_name("published_wechsel.py")


def measure(bench: Bench) -> list[Row]:
    """The whole command; left out where the package does not install."""
    python = bench.peer("wechsel")
    if python is None:
        return []
    size, width = (2_000, 128) if bench.quick else (50_257, 1_024)
    words = {name: vocabulary(name, size, size * 2 // 5) for name in ("source", "target")}
    tokenizers = {name: found.save(bench.folder / f"tokenizer-{name}-{size}") for name, found in words.items()}
    static = {name: _static(bench, name, found) for name, found in words.items()}
    config = two_layers(size, width)
    source = random_checkpoint(bench.folder / f"source-{size}x{width}", config, tokenizer=tokenizers["source"])
    dictionary = _dictionary(bench.folder / f"dictionary-{size}.txt", words["source"], words["target"])
    outs = {name: bench.folder / f"out-{name}" for name in ("clpds", "wechsel")}
    options = ["--source-embeddings", static["source"], "--target-embeddings", static["target"]]
    options += ["--dictionary", dictionary, "--tokenizer", tokenizers["target"], "--out", outs["clpds"]]
    given = [source, tokenizers["target"], static["source"], static["target"], dictionary]
    commands = {
        "clpds": clpds("init", "--method", "wechsel", "--source", source, *options),
        "wechsel": [python, PEER, *given, outs["wechsel"]],
    }
    costs = take_turns(
        {name: lambda name=name: cost_of_making(outs[name], commands[name]) for name in commands}, bench.rounds
    )
    alike = _compare(outs["clpds"], outs["wechsel"], words["target"])
    for out in outs.values():
        shutil.rmtree(out)
    detail = {name: [vars(cost) for cost in taken] for name, taken in costs.items()} | {"rows_alike": alike}
    ratio = times(costs["wechsel"], costs["clpds"])
    return [
        Row(
            f"init wechsel, {size:,} x {width:,}",
            told(costs["clpds"]),
            told(costs["wechsel"]),
            ratio,
            "x",
            ">=",
            5.0,
            detail,
        )
    ]


def _static(bench: Bench, name: str, words: Vocabulary) -> Path:
    """A fastText file of all words of a vocabulary; its vectors are random, and as many as trained ones."""
    file = bench.folder / f"{name}-{len(words.tokens)}.bin"
    if not file.is_file():
        model = FastText(vector_size=100, min_count=1, min_n=3, max_n=6, bucket=200_000, seed=len(name))
        model.build_vocab([_words(words)])
        save_facebook_model(model, str(file.with_suffix(".partial")))
        file.with_suffix(".partial").rename(file)
    return file


def _dictionary(file: Path, source: Vocabulary, target: Vocabulary) -> Path:
    pairs = list(zip(sorted(_words(source)), sorted(_words(target)), strict=True))
    file.write_text("".join(f"{ours}\t{theirs}\n" for ours, theirs in pairs[:: -(-len(pairs) // PAIRS)]))
    return file


def _words(vocabulary: Vocabulary) -> list[str]:
    return [token.removeprefix("Ġ") for token in vocabulary.tokens if token.startswith("Ġ") and len(token) > 1]


def _compare(ours: Path, theirs: Path, words: Vocabulary) -> float:
    """The share of words whose rows agree; RuntimeError where it is small.

    Bytes that are no text are left out: the package takes them for U+FFFD.
    """
    models = [open_checkpoint(folder) for folder in (ours, theirs)]
    ids = [id_ for id_, token in enumerate(words.tokens) if token.startswith("Ġ") and len(token) > 1]
    one, other = (model.tensors[parts(model)["input"][0]].load()[ids].double() for model in models)
    distances = (one - other).norm(dim=1) / other.norm(dim=1)
    alike = float((distances < DIFFERENCE).double().mean())
    if not alike >= ALIKE or not torch.isfinite(distances).all():
        raise RuntimeError(f"only {alike:.1%} of the rows are those of the package")
    return alike
