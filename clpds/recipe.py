"""The typed recipe: one dataclass a verb, the same for the command line and for YAML.

A recipe names its steps in order::

    steps:
      tokenizer: {verb: tokenizer, input: [de.txt], vocab_size: 8192, out: runs/de/tokenizer}
      train:
        verb: train
        model: runs/de/clp
        ...

This module is pure data and imports nothing heavy: a login node reads a recipe at once.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from tyro.conf import Positional

from clpds.errors import UserError

Dtype = Literal["float32", "bfloat16", "float16"]
InitMethod = Literal["clp", "random", "mean", "subpieces"]
Weighting = Literal["published", "nearest", "ridge", "clipped", "auto"]


class _Checked:
    """Unknown keys are errors, in every section."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Tokenizer(_Checked):
    """Train a tokenizer on raw text."""

    input: tuple[Path, ...]
    """Text, JSONL or Parquet files, plain or compressed."""
    kind: Literal["bpe", "unigram", "wordpiece"] = "bpe"
    """Byte-level BPE (GPT-2, Llama 3), SentencePiece-like unigram (T5, XLM-R) or WordPiece (BERT)."""
    vocab_size: int = 32_000
    """Number of tokens, special tokens included."""
    text_key: str = "text"
    """Field that holds the text in JSONL and Parquet files."""
    out: Path
    """Folder to write; AutoTokenizer.from_pretrained opens it."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


@dataclass(frozen=True, kw_only=True)
class Data(_Checked):
    """Tokenise and pack raw text into memory-mapped blocks."""

    input: tuple[Path, ...]
    """Text, JSONL or Parquet files (plain or compressed), or folders saved by `datasets`."""
    tokenizer: Path
    """Folder of the tokenizer, or of a model that has one."""
    sequence_length: int
    """Tokens in a block."""
    out: Path
    """Folder to write, with the splits train/ and validation/."""
    text_key: str = "text"
    """Field that holds the text in JSONL, Parquet and `datasets` inputs."""
    sample_by: Literal["line", "paragraph", "document"] = "line"
    """What one document is in a text file, as `datasets` calls it."""
    validation_fraction: float = 0.01
    """Share of the documents held out, chosen by a hash of their text."""
    workers: int | None = None
    """Processes to tokenise with; all cores unless told. The output does not depend on it."""
    seed: int = 0
    """Chooses which documents are held out."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


@dataclass(frozen=True, kw_only=True)
class Init(_Checked):
    """Build a model's first checkpoint in a new vocabulary from a model that exists."""

    method: InitMethod = "clp"
    """clp: CLP-Transfer; random, mean, subpieces: baselines."""
    source: Path
    """The large model to take over: a folder, a GGUF file or a hub id."""
    helper: Path | None = None
    """A small model of the target language (clp). Its tokenizer is the target tokenizer."""
    tokenizer: Path | None = None
    """The target tokenizer, where no helper brings one."""
    out: Path
    """Folder to write; from_pretrained opens it."""
    weighting: Weighting = "published"
    """How missing rows are weighted over the overlap (clp); auto picks by held-out overlap rows."""
    neighbours: int = 10
    """k, for the weighting `nearest`."""
    temperature: float = 0.05
    """Softmax temperature, for the weighting `nearest`."""
    ridge: float = 1e-2
    """Ridge strength relative to the mean squared helper row, for the weighting `ridge`."""
    center: bool = False
    """Subtract the mean helper row before similarities are taken (clp)."""
    pad_to: int = 1
    """Pad the number of rows to a multiple of this (64 or 128 suits GPUs and tensor parallelism)."""
    dtype: Dtype | None = None
    """Type of the output's tensors; the source's unless told."""
    max_shard_size: str = "5GB"
    """Largest safetensors file."""
    seed: int = 0
    """For whatever is drawn at random."""
    overwrite: bool = False
    """Replace the output folder if it exists."""


@dataclass(frozen=True, kw_only=True)
class Corpus(_Checked):
    """One prepared data set of a mixture."""

    path: Path
    """Folder written by `clpds data`."""
    weight: float = 1.0
    """Share of the blocks that come from here, relative to the other corpora."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(_Checked):
    """AdamW, and the clipping of the gradient."""

    lr: float = 3e-4
    """Highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the two moments."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.1
    """Decoupled decay; never on norms, biases and other vectors."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""


@dataclass(frozen=True, kw_only=True)
class Schedule(_Checked):
    """The learning rate as a function of the step."""

    kind: Literal["cosine", "linear", "wsd"] = "cosine"
    """Decay by cosine, linearly, or warm-up, stable, decay (wsd: linear over the last decay_steps)."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    decay_steps: int = 0
    """Length of the decay at the end, for wsd."""
    min_lr_ratio: float = 0.1
    """Last learning rate as a share of the highest."""


@dataclass(frozen=True, kw_only=True)
class Saving(_Checked):
    """Training checkpoints."""

    every: int | None = None
    """Steps between two; only at the end unless told."""
    keep_last: int = 2
    """How many to keep."""


@dataclass(frozen=True, kw_only=True)
class Validation(_Checked):
    """Loss on held-out blocks while training."""

    every: int | None = None
    """Steps between two; none unless told."""
    blocks: int | None = None
    """How many blocks of each corpus, from the first; all unless told."""


@dataclass(frozen=True, kw_only=True)
class Train(_Checked):
    """A training stage: (objective, trainable parameters, data, budget)."""

    model: Path
    """Model to start from; a config as .json draws fresh weights, its vocabulary that of the data."""
    data: dict[str, Corpus]
    """The mixture: a name and a prepared data set each."""
    out: Path
    """The run's folder: checkpoints/, metrics.jsonl, tensorboard/."""
    objective: Literal["causal"] = "causal"
    """What is predicted."""
    trainable: tuple[str, ...] = ("*",)
    """Shell patterns of parameter names; all others are frozen."""
    steps: int
    """Optimizer steps."""
    micro_batch: int
    """Blocks a rank puts through the model at once."""
    global_batch: int
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
    log_every: int = 1
    """Steps between two lines of metrics."""
    seed: int = 0
    """Data order, dropout and fresh weights."""

    def __post_init__(self) -> None:
        if self.global_batch % self.micro_batch:
            raise ValueError(f"global_batch {self.global_batch} is no multiple of micro_batch {self.micro_batch}")


@dataclass(frozen=True, kw_only=True)
class Convert(_Checked):
    """Turn a training run, a ZeRO checkpoint or a GGUF file into a Hugging Face folder."""

    model: Positional[Path]
    """A run, one of its checkpoints, or any model that can be opened."""
    out: Positional[Path]
    """Folder to write; from_pretrained opens it."""
    dtype: Dtype | None = None
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

    model: Positional[Path]
    """A model that transformers opens."""
    data: Path
    """A prepared data set (its validation split), or a text, JSONL or Parquet file."""
    blocks: int | None = None
    """How many blocks, from the first; all unless told."""
    sequence_length: int | None = None
    """Tokens in a window for raw text; the model's own, 1024 at most, unless told."""
    micro_batch: int = 8
    """Blocks put through the model at once."""
    text_key: str = "text"
    """Field that holds the text in JSONL and Parquet files."""
    json: bool = False
    """Print JSON instead of a table."""
    out: Path | None = None
    """Write the numbers to this JSON file too."""


@dataclass(frozen=True, kw_only=True)
class Report(_Checked):
    """Compare evaluations and draw the training curve: a table on the screen, one picture."""

    evals: dict[str, Path]
    """Label and JSON file written by `clpds eval --out`, in the order of the table."""
    run: Path | None = None
    """A training run whose curve is drawn beside the bars."""
    title: str = "clpds"
    """Heading of the picture."""
    out: Path
    """PNG to write."""


@dataclass(frozen=True, kw_only=True)
class Inspect(_Checked):
    """Say what a folder or file is: kind, sizes, provenance, integrity."""

    path: Positional[Path]
    """Model, run, checkpoint, data set or tokenizer."""
    token: str | None = None
    """Show the nearest tokens of this word instead (models made by `clpds init`: the source's)."""
    source: Path | None = None
    """The source model to look for nearest tokens in; by default the one named in the provenance."""


Step = Tokenizer | Data | Init | Train | Convert | Eval | Report | Inspect
VERBS: dict[str, type[Any]] = {
    "tokenizer": Tokenizer,
    "data": Data,
    "init": Init,
    "train": Train,
    "convert": Convert,
    "eval": Eval,
    "report": Report,
    "inspect": Inspect,
}


@dataclass(frozen=True)
class Recipe:
    """Steps by name, in order."""

    path: Path
    steps: dict[str, Step]

    def only(self, verb: str, name: str | None = None) -> tuple[str, Step]:
        """The step ``name``, or the one step of this verb; UserError unless that is unambiguous."""
        found = {key: step for key, step in self.steps.items() if verb_of(step) == verb}
        if name is None and len(found) == 1:
            return next(iter(found.items()))
        if name in found:
            return name, found[name]
        names = ", ".join(found) or "none"
        asked = f"has no {verb} step '{name}'" if name else f"has {len(found)} {verb} steps; pass --step"
        raise UserError(f"{self.path} {asked} (its {verb} steps: {names})")


def verb_of(step: Step) -> str:
    """``"train"`` for a Train, and so on."""
    return next(verb for verb, kind in VERBS.items() if kind is type(step))


def load_recipe(path: Path, overrides: Sequence[str] = (), *, default_step: str | None = None) -> Recipe:
    """Read a YAML recipe and apply ``step.section.key=value`` overrides.

    With ``default_step`` the overrides are ``section.key=value`` of that step.
    Raises UserError that names the file and key, with the nearest known name.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or not isinstance(document.get("steps"), dict) or not document["steps"]:
        raise UserError(f"{path}: expected a mapping 'steps' of step names to steps")
    for key in document:
        if key != "steps":
            raise UserError(f"{path}: unknown key '{key}'{_nearest(str(key), ['steps'])}")
    for override in overrides:
        _apply(document["steps"], override, default_step)
    return Recipe(path, {name: _step(path, name, raw) for name, raw in document["steps"].items()})


def _step(path: Path, name: str, raw: Any) -> Step:
    verb = raw.get("verb") if isinstance(raw, dict) else None
    if verb not in VERBS:
        raise UserError(f"{path}: {name}.verb is {verb!r}{_nearest(str(verb), VERBS)}; known: {', '.join(VERBS)}")
    keys = {key: value for key, value in raw.items() if key != "verb"}
    try:
        step: Step = TypeAdapter(VERBS[verb]).validate_python(keys)
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error, name, VERBS[verb])}") from error
    return step


def _first(error: ValidationError, name: str, kind: type[Any]) -> str:
    """The first complaint of pydantic as one line: key, what is wrong, nearest name."""
    problem = error.errors()[0]
    keys = [str(key) for key in problem["loc"]]
    where = ".".join([name, *keys])
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown key '{where}'{_nearest(keys[-1], _keys_beside(kind, keys))}"
    if problem["type"] == "missing":
        return f"key '{where}' is missing"
    if problem["type"] == "value_error":
        return f"'{where}': {problem['msg'].removeprefix('Value error, ')}"
    return f"'{where}': {problem['msg']} (got {problem['input']!r})"


def _keys_beside(kind: type[Any], keys: Sequence[str]) -> list[str]:
    """The known keys of the section that the last of ``keys`` stands in."""
    for key in keys[:-1]:
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(key, dict)
        elif get_args(kind):  # dict[str, Corpus]: the key is a name of the user's
            kind = get_args(kind)[-1]
    return [f.name for f in fields(kind)] if is_dataclass(kind) else []


def _apply(steps: dict[str, Any], override: str, default_step: str | None) -> None:
    dotted, equals, value = override.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise UserError(f"override '{override}' is not of the form section.key=value")
    if default_step is not None:
        keys = [default_step, *keys]
    if keys[0] not in steps:
        raise UserError(f"override '{override}': no step '{keys[0]}'{_nearest(keys[0], steps)}")
    section = steps
    for key in keys[:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise UserError(f"override '{override}': '{key}' is no section")
    section[keys[-1]] = yaml.safe_load(value)


def _nearest(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
