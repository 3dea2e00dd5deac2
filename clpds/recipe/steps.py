"""Steps that make no model of their own, and the verbs: the options of the command line and a recipe's keys."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from clpds.recipe.fields import Checked, Count, MaybeCount, MaybeDtype, MaybePath, MaybeText
from clpds.recipe.text import Data, Dictionary, Embeddings, Pairs, Tokenizer
from clpds.recipe.training import Train
from clpds.recipe.transfer import Init


@dataclass(frozen=True, kw_only=True)
class Convert(Checked):
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
class Eval(Checked):
    """Loss, perplexity and bits per byte of a model on held-out text; or how many texts it classifies rightly."""

    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    """A model that transformers opens."""
    data: Path
    """A prepared data set (its validation split), or a text, JSONL or Parquet file."""
    task: bool = False
    """Classify the texts of a JSONL or Parquet file: accuracy with its interval, beside chance."""
    label_key: str = "label"
    """Field that holds each text's class (task)."""
    beside: MaybePath = None
    """JSON file of an evaluation to show the accuracy beside, for instance in the source language (task)."""
    blocks: MaybeCount = None
    """How many blocks, from the first; all unless told."""
    sequence_length: MaybeCount = None
    """Tokens in a window for raw text; the model's own, 1024 at most, unless told."""
    micro_batch: Count = 8
    """Blocks put through the model at once."""
    text_key: str = "text"
    """Field that holds the text in JSONL and Parquet files."""
    seed: int = 0
    """Which tokens are hidden from a masked language model; a causal one predicts them all."""
    json: bool = False
    """Print JSON instead of a table."""
    out: MaybePath = None
    """Write the numbers to this JSON file too."""
    overwrite: bool = False
    """Replace the output file even if clpds did not write it."""


@dataclass(frozen=True, kw_only=True)
class Report(Checked):
    """Compare evaluations, as a table and a picture, or training runs, as a page."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="[RUN ...]", help_behavior_hint="")] = ()
    """Training runs whose validation losses are compared, with the first's last loss as the goal."""
    evals: dict[str, Path] = field(default_factory=dict)
    """Label and JSON file written by `clpds eval --out`, in the order shown: --evals random a.json clp b.json."""
    run: MaybePath = None
    """A training run whose curve is drawn beside the bars."""
    title: str = "clpds"
    """Heading of the picture."""
    out: Path
    """PNG to write, or for runs an HTML page."""
    overwrite: bool = False
    """Replace the output file even if clpds did not write it."""

    def __post_init__(self) -> None:
        if bool(self.runs) == bool(self.evals):
            raise ValueError("give training runs to compare, or --evals, one of them")
        if self.runs and (self.run is not None or self.out.suffix != ".html"):
            raise ValueError("training runs are compared in a page: end out in .html, and leave out run")


@dataclass(frozen=True, kw_only=True)
class Inspect(Checked):
    """Say what a folder or file is: kind, sizes, provenance, integrity."""

    path: Annotated[Positional[Path], arg(metavar="PATH")]
    """Model, run, checkpoint, data set or tokenizer."""
    verify: bool = False
    """Read every byte of a run, too, and compare the hashes; of other folders they always are."""
    token: MaybeText = None
    """Show the nearest tokens of this word instead (models made by `clpds init`: the source's)."""
    source: MaybePath = None
    """The source model to look for nearest tokens in; by default the one named in the provenance."""


Step = Tokenizer | Embeddings | Dictionary | Data | Pairs | Init | Train | Convert | Eval | Report | Inspect
VERBS: dict[str, type[Any]] = {
    "tokenizer": Tokenizer,
    "embeddings": Embeddings,
    "dictionary": Dictionary,
    "data": Data,
    "pairs": Pairs,
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
