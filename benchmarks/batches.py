"""Batches in training order, beside the same Arrow file read row by row, copying, and a step of a 135M model."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.bench import Bench
from benchmarks.checkpoints import SMOLLM2_135M
from benchmarks.costs import clpds, cost_of
from benchmarks.table import Row
from benchmarks.text import train_tokenizer, write_corpus
from clpds.data.blocks import Batch, Blocks, open_blocks
from clpds.data.order import Mixture

LENGTH = 2048
MICRO_BATCH = 8
MANY = 10**7  # blocks of a corpus of 20 billion tokens
FAR = 10**9  # the number of a sample


class Repeated:
    """A corpus of ``MANY`` blocks, which are those of a small one over and over: its order costs what theirs does."""

    classes: tuple[str, ...] = ()

    def __init__(self, blocks: Blocks) -> None:
        self.folder, self.tokenizer_folder, self.fingerprint = blocks.folder, blocks.tokenizer_folder, "repeated"
        self.sequence_length, self._blocks = blocks.sequence_length, blocks

    def __len__(self) -> int:
        return MANY

    def batch(self, indices: Sequence[int], *, isolate: bool = True) -> Batch:
        """Those blocks, counted round and round."""
        return self._blocks.batch([index % len(self._blocks) for index in indices], isolate=isolate)

    def predicted_bytes(self, indices: Sequence[int]) -> int:
        """Nobody asks here."""
        return self._blocks.predicted_bytes([index % len(self._blocks) for index in indices])


def measure(bench: Bench) -> list[Row]:
    """Files are in the page cache for both, since what is measured is the reader."""
    folder = _prepared(bench)
    blocks = open_blocks(folder, "train")
    mixture = Mixture([blocks], [1.0], seed=0)
    rounds = 1 if bench.quick else 7  # of milliseconds each
    count = 4 if bench.quick else 64
    batches = [range(first, first + MICRO_BATCH) for first in range(0, count * MICRO_BATCH, MICRO_BATCH)]
    located = [[mixture.locate(index)[1] for index in indices] for indices in batches]
    rows = datasets.load_from_disk(str(folder / "train")).select_columns(["input_ids"]).with_format("torch")
    source = torch.zeros(4 * MICRO_BATCH * LENGTH, dtype=torch.int64)
    goal = torch.zeros_like(source)

    def by_row(places: list[int]) -> Tensor:
        return torch.stack([rows[place]["input_ids"] for place in places])

    for indices, places in zip(batches, located, strict=True):
        if not torch.equal(mixture.batch(indices).input_ids, by_row(places).long()):
            raise ValueError(f"samples {indices} differ from the rows of the Arrow file")
    readers: dict[str, Callable[[], object]] = {
        "ours": lambda: [mixture.batch(indices) for indices in batches],
        "rows": lambda: [by_row(places) for places in located],
        "copy": lambda: [goal.copy_(source) for _ in batches],
    }
    turns: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            turns[name].append(_seconds(read) / (count * MICRO_BATCH))
    ours, row, copy = (statistics.median(turns[name]) for name in readers)
    step = _step_seconds_per_token(64 if bench.quick else 256) * LENGTH
    resumed = [_seconds(lambda: _resume(folder)) for _ in range(rounds)]
    many = [_seconds(lambda: Mixture([Repeated(blocks)], [1.0], seed=0).batch(range(FAR, FAR + 8))) for _ in resumed]
    said = f"{ours * 1e6:.0f} us a block of {LENGTH:,} tokens, {LENGTH / ours / 1e6:.0f}M tokens/s"
    return [
        Row("a batch in training order", said, f"row by row: {row * 1e6:.0f} us", row / ours, "x", None, 0, turns),
        Row("its share of a step at 135M", said, f"forward and backward here: {step:.1f} s a block",
            100 * ours / step, "%", "<", 0.5, {"step_seconds_a_block": step}),
        Row("copying as many bytes, in that time", said, f"copy: {copy * 1e6:.1f} us", 100 * copy / ours, "%"),
        Row(f"open and read at sample {FAR:,}", f"{statistics.median(resumed):.3f} s", "",
            statistics.median(resumed), "s", "<", 1, {"seconds": resumed}),
        Row(f"the same of {MANY:,} blocks, opened", f"{statistics.median(many):.3f} s", "",
            statistics.median(many), "s", "<", 1, {"seconds": many}),
    ]  # fmt: skip


def _prepared(bench: Bench) -> Path:
    """A data folder, made once."""
    text = write_corpus(bench.shared, 1 if bench.quick else 20)
    out = bench.folder / f"data-{text.stem}"
    if not out.is_dir():
        words = ["--input", text, "--tokenizer", train_tokenizer(text, 4096), "--sequence-length", str(LENGTH)]
        cost_of(clpds("data", *words, "--out", out))
    return out


def _resume(folder: Path) -> None:
    """What a run that goes on does before its first batch, and that batch."""
    Mixture([open_blocks(folder, "train")], [1.0], seed=0).batch(range(FAR, FAR + MICRO_BATCH))


def _step_seconds_per_token(tokens: int) -> float:
    """Of a step without optimizer and without communication, on one short block: less than any real step takes."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SMOLLM2_135M)
    ids = torch.randint(SMOLLM2_135M.vocab_size, (1, tokens))
    return min(_seconds(lambda: model(input_ids=ids, labels=ids).loss.backward()) for _ in range(3)) / tokens


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
