"""One dataclass a verb: the options of the command line and the keys of a recipe's steps.

This module is pure data and imports nothing heavy: a login node reads a recipe at once.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from tyro.conf import Positional, arg

Dtype = Literal["float32", "bfloat16", "float16"]
VocabularyMethod = Literal["clp", "wechsel", "focus", "omp", "random", "overlap", "mean", "subpieces"]
InitMethod = Literal[VocabularyMethod, "grow"]
GrowthFill = Literal["zero", "small", "copy"]
Weighting = Literal["published", "nearest", "ridge", "clipped", "auto"]
# What a method cannot do without, beside the source and the target tokenizer.
NEEDS: dict[InitMethod, tuple[str, ...]] = {
    "clp": ("helper",),
    "wechsel": ("source_embeddings", "target_embeddings", "dictionary"),
    "focus": ("text",),
    "omp": ("helper",),
}
# Options of Init that some methods use and others would ignore.
USED_BY: dict[str, tuple[InitMethod, ...]] = {
    "weighting": ("clp",),
    "neighbours": ("clp", "wechsel"),
    "temperature": ("clp", "wechsel"),
    "ridge": ("clp",),
    "center": ("clp",),
    "sparsity": ("omp",),
    "text": ("focus",),
    "text_key": ("focus",),
    "source_embeddings": ("wechsel",),
    "target_embeddings": ("wechsel",),
    "dictionary": ("wechsel",),
    "max_words": ("wechsel",),
    "refinements": ("wechsel",),
    "copy_overlap": ("wechsel",),
    **dict.fromkeys(("helper", "tokenizer", "extend", "pad_to"), get_args(VocabularyMethod)),
}


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):  # YAML reads yes and on as true, which would count as 1
        raise ValueError("Input should be a number, not yes or no")
    return value


Count = Annotated[int, BeforeValidator(_no_switch), Field(gt=0)]
Positive = Annotated[float, BeforeValidator(_no_switch), Field(gt=0)]
Amount = Annotated[float, BeforeValidator(_no_switch), Field(ge=0)]
NotNegative = Annotated[int, BeforeValidator(_no_switch), Field(ge=0)]
Files = Annotated[tuple[Path, ...], Field(min_length=1)]
_OPTIONAL = "(optional)"
# Optional rather than `| None`: tyro then does without typeguard, whose import is 40 ms of 300.
MaybePath = Annotated[Optional[Path], arg(metavar="PATH", help_behavior_hint=_OPTIONAL)]  # noqa: UP045
MaybeCount = Annotated[Optional[Count], arg(metavar="INT", help_behavior_hint=_OPTIONAL)]  # noqa: UP045
MaybeDtype = Annotated[Dtype | None, arg(metavar="{float32,bfloat16,float16}", help_behavior_hint=_OPTIONAL)]
MaybePositive = Annotated[Positive | None, arg(metavar="FLOAT", help_behavior_hint=_OPTIONAL)]
MaybeFill = Annotated[GrowthFill | None, arg(metavar="{zero,small,copy}", help_behavior_hint=_OPTIONAL)]
MaybeText = Annotated[Optional[str], arg(metavar="TEXT", help_behavior_hint=_OPTIONAL)]  # noqa: UP045


class _Checked:
    """Unknown keys, infinity and NaN are errors, in every section."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Tokenizer(_Checked):
    """Train a tokenizer on raw text."""

    input: Files
    """Text, JSONL or Parquet files, plain or compressed."""
    kind: Literal["bpe", "unigram", "wordpiece"] = "bpe"
    """Byte-level BPE (GPT-2, Llama 3), SentencePiece-like unigram (T5, XLM-R) or WordPiece (BERT)."""
    vocab_size: Count = 32_000
    """Number of tokens, special tokens included."""
    text_key: str = "text"
    """Field that holds the text in JSONL and Parquet files."""
    out: Path
    """Folder to write; AutoTokenizer.from_pretrained opens it."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


@dataclass(frozen=True, kw_only=True)
class Embeddings(_Checked):
    """Train static word embeddings (fastText) on raw text, for init --method wechsel."""

    input: Files
    """Text, JSONL or Parquet files, plain or compressed."""
    dimension: Count = 100
    """Numbers in a word's vector; the same for both languages."""
    epochs: Count = 5
    """Passes over the text."""
    min_count: Count = 5
    """Leave out words that occur less often."""
    text_key: str = "text"
    """Field that holds the text in JSONL and Parquet files."""
    out: Path
    """Folder to write, with fasttext.bin."""
    seed: int = 0
    """For the first vectors and the negative samples."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


@dataclass(frozen=True, kw_only=True)
class Dictionary(_Checked):
    """Make a bilingual dictionary out of parallel text, for init --method wechsel."""

    parallel: Annotated[tuple[Path, ...], Field(min_length=1, max_length=2)]
    """Two text files whose lines are translations, source language first; or one with a tab in every line."""
    out: Path
    """Text file to write: a pair of words a line, the most frequent first."""
    overwrite: bool = False
    """Replace the output file if it exists."""


@dataclass(frozen=True, kw_only=True)
class Data(_Checked):
    """Tokenise and pack raw text into memory-mapped blocks."""

    input: Files
    """Text, JSONL or Parquet files (plain or compressed), or folders saved by `datasets`."""
    tokenizer: Path
    """Folder of the tokenizer, or of a model that has one."""
    sequence_length: Count
    """Tokens in a block."""
    out: Path
    """Folder to write, with the splits train/ and validation/."""
    text_key: str = "text"
    """Field that holds the text in JSONL, Parquet and `datasets` inputs."""
    sample_by: Literal["line", "paragraph", "document"] = "line"
    """What one document is in a text file, as `datasets` calls it."""
    validation_fraction: Amount = 0.01
    """Share of the documents held out, chosen by a hash of their text."""
    workers: MaybeCount = None
    """Processes to tokenise with (each rank, under MPI); all cores unless told. The output does not depend on it."""
    only: MaybeText = None
    """Part of the work, for an array of jobs: `read` first, then 1/N to N/N in any order; without it what is left."""
    seed: int = 0
    """Chooses which documents are held out."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


@dataclass(frozen=True, kw_only=True)
class Init(_Checked):
    """Build a model's first checkpoint in a new vocabulary from a model that exists."""

    method: InitMethod = "clp"
    """clp, wechsel, focus, omp: from what is known of the new tokens; random, overlap, mean, subpieces: baselines;
    grow: a larger model with the source's vocabulary."""
    source: Path
    """The large model to take over: a folder, a GGUF file or a hub id."""
    helper: MaybePath = None
    """A small model of the target language (clp, omp). Its tokenizer is the target tokenizer."""
    tokenizer: MaybePath = None
    """The target tokenizer, where no helper brings one."""
    extend: bool = False
    """Keep the source's vocabulary and put the target's new tokens behind it."""
    out: Path
    """Folder to write; from_pretrained opens it."""
    weighting: Weighting = "published"
    """How missing rows are weighted over the overlap (clp); auto picks by held-out overlap rows."""
    neighbours: Count = 10
    """k, for wechsel and the weighting `nearest`."""
    temperature: MaybePositive = None
    """Softmax temperature, for wechsel (0.1 unless told) and the weighting `nearest` (0.05)."""
    ridge: Amount = 1.0
    """Ridge strength relative to the mean eigenvalue of H^T H (H: helper rows), for the weighting `ridge`."""
    center: bool = False
    """Subtract the mean helper row before similarities are taken (clp)."""
    sparsity: MaybeCount = None
    """Shared tokens that a new one is a combination of (omp); by held-out overlap rows unless told."""
    text: tuple[Path, ...] = ()
    """Text of the target language to learn how tokens are used from (focus): text, JSONL or Parquet files."""
    text_key: str = "text"
    """Field that holds the text in JSONL and Parquet files (focus)."""
    source_embeddings: MaybePath = None
    """Word embeddings of the source's language (wechsel): made by `clpds embeddings`, fastText's .bin, or .vec text."""
    target_embeddings: MaybePath = None
    """Word embeddings of the target language (wechsel)."""
    dictionary: MaybePath = None
    """Pairs of words, source language first, a tab or space between (wechsel); `clpds dictionary` makes one."""
    max_words: MaybeCount = None
    """Use the first words of each embedding only, the most frequent (wechsel)."""
    refinements: NotNegative = 0
    """Rounds in which the alignment induces a dictionary of its own and is fitted to that (wechsel)."""
    copy_overlap: bool = False
    """Copy the rows of tokens that the source has; the paper copies special tokens only (wechsel)."""
    width: MaybeCount = None
    """Grow the source to this hidden size first, whatever the method; heads and feed-forward grow along."""
    heads: MaybeCount = None
    """Attention heads of the grown model; a head keeps its size, and key-value heads grow in proportion."""
    feed_forward: MaybeCount = None
    """Feed-forward size of the grown model."""
    depth: MaybeCount = None
    """Layers of the grown model; a new one starts as the identity."""
    fill: MaybeFill = None
    """How added width starts: nothing writes there yet (zero), a little does (small), the same again (copy); unless
    told, the one that keeps the source's function."""
    noise: Amount = 0.0
    """Deviation of noise on what growth adds, as a share of each tensor's own; 0 keeps the source's function."""
    pad_to: Count = 1
    """Pad the number of rows to a multiple of this (64 or 128 suits GPUs and tensor parallelism)."""
    dtype: MaybeDtype = None
    """Type of the output's tensors; the source's unless told."""
    max_shard_size: str = "5GB"
    """Largest safetensors file."""
    seed: int = 0
    """For whatever is drawn at random."""
    overwrite: bool = False
    """Replace the output folder if it exists."""

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        """What the method needs is there, and every option that differs from its default is used."""
        for option in NEEDS.get(self.method, ()):
            if not getattr(self, option):
                raise ValueError(f"method {self.method} needs {option}")
        default = {option.name: option.default for option in fields(self)}
        for option, methods in USED_BY.items():
            if self.method not in methods and getattr(self, option) != default[option]:
                raise ValueError(f"method {self.method} does not use {option}, which is for {', '.join(methods)}")
        if not self.grows and self.method == "grow":
            raise ValueError("method grow needs width, heads, feed_forward or depth")
        if not self.grows and (self.fill or self.noise):
            raise ValueError("fill and noise are of what growth adds; give width, heads, feed_forward or depth")
        return self

    @property
    def grows(self) -> bool:
        """Whether the source is grown before its vocabulary is exchanged."""
        return any((self.width, self.heads, self.feed_forward, self.depth))


@dataclass(frozen=True, kw_only=True)
class Corpus(_Checked):
    """One prepared data set of a mixture."""

    path: Path
    """Folder written by `clpds data`."""
    weight: Amount = 1.0
    """Share of the blocks that come from here, relative to the other corpora."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(_Checked):
    """AdamW, and the clipping of the gradient."""

    lr: Amount = 3e-4
    """Highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the two moments."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: Amount = 0.1
    """Decoupled decay; never on norms, biases and other vectors."""
    clip: Amount = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""


@dataclass(frozen=True, kw_only=True)
class Schedule(_Checked):
    """The learning rate as a function of the step."""

    kind: Literal["cosine", "linear", "wsd"] = "cosine"
    """Decay by cosine, linearly, or warm-up, stable, decay (wsd: linear over the last decay_steps)."""
    warmup_steps: NotNegative = 0
    """Steps of linear warm-up."""
    decay_steps: NotNegative = 0
    """Length of the decay at the end, for wsd."""
    min_lr_ratio: Amount = 0.1
    """Last learning rate as a share of the highest."""


@dataclass(frozen=True, kw_only=True)
class Saving(_Checked):
    """Training checkpoints."""

    every: MaybeCount = None
    """Steps between two; only at the end unless told."""
    keep_last: Count = 2
    """How many to keep."""


@dataclass(frozen=True, kw_only=True)
class Validation(_Checked):
    """Loss on held-out blocks while training."""

    every: MaybeCount = None
    """Steps between two; none unless told."""
    blocks: MaybeCount = None
    """How many blocks of each corpus, from the first; all unless told."""


@dataclass(frozen=True, kw_only=True)
class Train(_Checked):
    """A training stage: (objective, trainable parameters, data, budget)."""

    model: Path
    """Model to start from; a config as .json draws fresh weights, its vocabulary that of the data."""
    data: Annotated[dict[str, Corpus], Field(min_length=1)]
    """The mixture: a name and a prepared data set each."""
    out: Path
    """The run's folder: checkpoints/, metrics.jsonl, tensorboard/."""
    objective: Literal["causal"] = "causal"
    """What is predicted."""
    trainable: tuple[str, ...] = ("*",)
    """Shell patterns of parameter names; all others are frozen."""
    steps: Count
    """Optimizer steps."""
    micro_batch: Count
    """Blocks a rank puts through the model at once."""
    global_batch: Count
    """Blocks in an optimizer step, over all ranks and accumulation."""
    isolate_documents: bool = True
    """Documents packed into one block do not see each other."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more compute."""
    deepspeed: Path = Path("zero3_bf16.json")
    """DeepSpeed JSON: a path, or the name of a file of ds_configs/."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    saving: Saving = field(default_factory=Saving)
    validation: Validation = field(default_factory=Validation)
    log_every: Count = 1
    """Steps between two lines of metrics."""
    seed: int = 0
    """Data order, dropout and fresh weights."""

    def __post_init__(self) -> None:
        if self.global_batch % self.micro_batch:
            raise ValueError(f"global_batch {self.global_batch} is no multiple of micro_batch {self.micro_batch}")


@dataclass(frozen=True, kw_only=True)
class Convert(_Checked):
    """Turn a training run, a ZeRO checkpoint or a GGUF file into a Hugging Face folder."""

    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    """A run, one of its checkpoints, or any model that can be opened."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder to write; from_pretrained opens it."""
    dtype: MaybeDtype = None
    """Type of the output's tensors; that of the model's config unless told."""
    max_shard_size: str = "5GB"
    """Largest safetensors file."""
    verify: bool = False
    """Reload the result with transformers and compare every tensor with what was read."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


@dataclass(frozen=True, kw_only=True)
class Eval(_Checked):
    """Loss, perplexity and bits per byte of a model on held-out text."""

    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    """A model that transformers opens."""
    data: Path
    """A prepared data set (its validation split), or a text, JSONL or Parquet file."""
    blocks: MaybeCount = None
    """How many blocks, from the first; all unless told."""
    sequence_length: MaybeCount = None
    """Tokens in a window for raw text; the model's own, 1024 at most, unless told."""
    micro_batch: Count = 8
    """Blocks put through the model at once."""
    text_key: str = "text"
    """Field that holds the text in JSONL and Parquet files."""
    json: bool = False
    """Print JSON instead of a table."""
    out: MaybePath = None
    """Write the numbers to this JSON file too."""


@dataclass(frozen=True, kw_only=True)
class Report(_Checked):
    """Compare evaluations and draw the training curve: a table on the screen, one picture."""

    evals: Annotated[dict[str, Path], Field(min_length=1)]
    """Label and JSON file written by `clpds eval --out`, in the order shown: --evals random a.json clp b.json."""
    run: MaybePath = None
    """A training run whose curve is drawn beside the bars."""
    title: str = "clpds"
    """Heading of the picture."""
    out: Path
    """PNG to write."""


@dataclass(frozen=True, kw_only=True)
class Inspect(_Checked):
    """Say what a folder or file is: kind, sizes, provenance, integrity."""

    path: Annotated[Positional[Path], arg(metavar="PATH")]
    """Model, run, checkpoint, data set or tokenizer."""
    token: MaybeText = None
    """Show the nearest tokens of this word instead (models made by `clpds init`: the source's)."""
    source: MaybePath = None
    """The source model to look for nearest tokens in; by default the one named in the provenance."""


Step = Tokenizer | Embeddings | Dictionary | Data | Init | Train | Convert | Eval | Report | Inspect
VERBS: dict[str, type[Any]] = {
    "tokenizer": Tokenizer,
    "embeddings": Embeddings,
    "dictionary": Dictionary,
    "data": Data,
    "init": Init,
    "train": Train,
    "convert": Convert,
    "eval": Eval,
    "report": Report,
    "inspect": Inspect,
}


def verb_of(step: Step) -> str:
    """``"train"`` for a Train, and so on."""
    return next(verb for verb, kind in VERBS.items() if kind is type(step))
