"""The command ``clpds``: one verb a line; a verb's room is imported only when it is called."""

import gc
import importlib
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import tyro
from pydantic import Field
from tyro.conf import FlagCreatePairsOff, Positional, arg

from clpds import __version__, recipe
from clpds.ending import one_line
from clpds.errors import DEBUG
from clpds.recipe import Count, MaybeCount, MaybePath, MaybeText, NotNegative, VocabularyMethod
from clpds.standard_streams import guarded_streams

Speed = Annotated[float, Field(gt=0)]
# Texts; not tuple[str, ...], for which tyro imports typeguard, 40 ms of 300.
Overrides = Annotated[Positional[tuple], arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")]  # type: ignore[type-arg]
WIDTHS = 40, 1000  # of the screen: tyro hangs in a narrower one, and a table is padded to whatever it is said to be
OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)+=")


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """Run one training stage of a recipe: what every rank runs."""

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """YAML file that names the steps."""
    overrides: Overrides = ()
    """section.key=value of the stage, for instance optimizer.lr=1e-4."""
    step: MaybeText = None
    """Name of the stage, where the recipe has several."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Check each rank's device, memory, disk, clock and network before a job: what every rank runs."""

    folder: Path
    """Folder that all ranks share, the run's for instance; made if missing. Bad nodes are listed in its bad_nodes."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run all steps of a recipe on this machine; finished steps are skipped."""

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """YAML file that names the steps."""
    overrides: Overrides = ()
    """step.section.key=value, for instance train.optimizer.lr=1e-4."""
    step: MaybeText = None
    """Run this step only."""
    ranks: Count = 1
    """Processes for each training stage."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Before queueing: does a training stage fit, how long does it take, on how many GPUs."""

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """YAML file that names the steps."""
    overrides: Overrides = ()
    """step.section.key=value, for instance train.micro_batch=8."""
    step: MaybeText = None
    """Name of one training stage; all unless told."""
    profile: MaybePath = None
    """YAML file that describes the cluster, or the name of one of recipes/clusters/; names the GPU."""
    gpu: MaybeText = None
    """A100-80GB, H100 and so on, or cpu; an unknown name lists the known ones."""
    gpus_per_node: MaybeCount = None
    """Beyond one node only whole nodes are considered."""
    mfu: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of the dense bf16 peak that the model's FLOPs reach; 0.4 is usual for ZeRO-3 at 1 to 10 billion."""
    tokens_per_second: Annotated[Optional[Speed], arg(metavar="FLOAT", help_behavior_hint="(optional)")] = None  # noqa: UP045
    """Measured speed of one rank, to reckon hours from instead of MFU."""


@dataclass(frozen=True, kw_only=True)
class CompareInit:
    """Before training: every method of init that a recipe's inputs allow, on held-out text."""

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """YAML file that names the steps; the inputs are those of its init steps."""
    overrides: Overrides = ()
    """step.section.key=value, for instance clp.helper=runs/helper."""
    data: Path
    """Held-out text of the target language: a text, JSONL or Parquet file."""
    blocks: MaybeCount = None
    """How many blocks, from the first; all unless told."""
    sequence_length: MaybeCount = None
    """Tokens in a window; the model's own, 1024 at most, unless told."""
    methods: tuple[VocabularyMethod, ...] = ()
    """Only these; all that the inputs allow unless told."""
    out: Path
    """Folder for compare.json, compare.png and a file a method; methods that have one are not run again."""


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Measure what a paper claims, at a size that one machine can do: numbers, figures, a page."""

    claim: Annotated[Positional[Literal["clp", "wechsel", "growth", "minimodel", "trelm"]], arg(metavar="CLAIM")]
    """Whose: clp, wechsel, growth, minimodel or trelm."""
    size: Literal["toy", "small", "full"] = "small"
    """toy: minutes, the direction only; small: about an hour on two cores; full: names the recipes for a cluster."""
    seeds: Count = 3
    """How often each arm is trained."""
    out: Path = Path("runs/reproduce")
    """Folder for texts, models that claims share, and CLAIM-SIZE with the results; the same command goes on in it."""
    jobs: MaybeCount = None
    """Trainings at once; as many as there are cores unless told."""


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Hand the steps of a recipe to Slurm, as jobs that wait for each other."""

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """YAML file that names the steps."""
    overrides: Overrides = ()
    """step.section.key=value, for instance train.optimizer.lr=1e-4."""
    profile: Path
    """YAML file that describes the cluster, or the name of one of recipes/clusters/."""
    nodes: MaybeCount = None
    """Nodes of a training job; the profile's unless told."""
    time: MaybeText = None
    """Time limit of a training job, as Slurm writes it; the profile's unless told."""
    dry_run: bool = False
    """Print the scripts, write and submit nothing."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Say how a training run stands and what the queue says of its jobs."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of the run."""


@dataclass(frozen=True, kw_only=True)
class Supervise:
    """Run one training stage inside a Slurm job, and requeue the job: what a batch script ends with."""

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """YAML file that names the steps."""
    overrides: Overrides = ()
    """section.key=value of the stage, for instance optimizer.lr=1e-4."""
    step: MaybeText = None
    """Name of the stage, where the recipe has several."""
    requeue_limit: NotNegative = 50
    """How often the job may go back into the queue."""
    signal_lead: MaybeCount = None
    """Seconds before the time limit at which Slurm warns (--signal); no job runs that it leaves no time to train."""
    preflight: bool = False
    """Check nodes, network and the shared folder first."""
    exclude_bad_nodes: bool = False
    """Leave out a node that fails the preflight when the job goes back into the queue."""
    container: MaybeText = None
    """Command in front of `clpds` on the ranks."""


# verb -> (its options, where it is done)
VERBS: dict[str, tuple[type[Any], str]] = {
    "tokenizer": (recipe.Tokenizer, "clpds.vocabulary.train:train_tokenizer"),
    "embeddings": (recipe.Embeddings, "clpds.vocabulary.fasttext:train_embeddings"),
    "dictionary": (recipe.Dictionary, "clpds.vocabulary.dictionary:induce_dictionary"),
    "data": (recipe.Data, "clpds.data.prepare:prepare"),
    "pairs": (recipe.Pairs, "clpds.data.prepare_pairs:prepare_pairs"),
    "init": (recipe.Init, "clpds.transfer.init:init"),
    "compare-init": (CompareInit, "clpds.comparison.compare_init:compare_init"),
    "preflight": (Preflight, "clpds.preflight.entry:preflight"),
    "train": (TrainStep, "clpds.training.entry:train_step"),
    "run": (Run, "clpds.walk:run_recipe"),
    "plan": (Plan, "clpds.planning.plan:plan"),
    "submit": (Submit, "launcher.submit:submit"),
    "status": (Status, "launcher.status:status"),
    "supervise": (Supervise, "launcher.supervise:supervise"),
    "convert": (recipe.Convert, "clpds.conversion.convert:convert"),
    "eval": (recipe.Eval, "clpds.evaluation.evaluate:evaluate"),
    "reproduce": (Reproduce, "clpds.reproduction.reproduce:reproduce"),
    "report": (recipe.Report, "clpds.report.compare:report"),
    "inspect": (recipe.Inspect, "clpds.inspection:inspect"),
}


def main() -> None:
    """Parse the command line, run the verb; bad input is one line on stderr and exit status 2.

    ``--debug``, anywhere, puts the traceback above that line.
    """
    words = [word for word in sys.argv[1:] if word != "--debug"]
    with guarded_streams(rank=words[:1] in (["train"], ["preflight"])):
        _do(words)


def _do(words: list[str]) -> None:
    if words == ["--version"]:
        sys.stdout.write(f"clpds {__version__}\n")
        return
    if len(words) < len(sys.argv) - 1:
        os.environ[DEBUG] = "1"
    width = shutil.get_terminal_size().columns
    if not WIDTHS[0] <= width <= WIDTHS[1] or "COLUMNS" in os.environ:
        os.environ["COLUMNS"] = str(min(max(width, WIDTHS[0]), WIDTHS[1]))
    # Looking for plugins of pydantic reads what every installed package says of itself: 15 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    options = tyro.extras.subcommand_cli_from_dict(
        {verb: kind for verb, (kind, _) in VERBS.items()},
        prog="clpds",
        description="Start a language model in a new language from one that exists. "
        "With --debug an error shows where it arose.",
        args=_with_overrides_together(words),
        config=(FlagCreatePairsOff,),
    )
    verb = next(verb for verb, (kind, _) in VERBS.items() if kind is type(options))
    with one_line(verb):
        recipe.checked(type(options), vars(options))
        room(verb)(options)


def _with_overrides_together(words: list[str]) -> list[str]:
    """The same with all section.key=value behind the recipe; argparse refuses those that follow an option."""
    overrides = [word for word in words if OVERRIDE.match(word)]
    others = [word for word in words if not OVERRIDE.match(word)]
    for place, word in enumerate(others):
        if word.endswith((".yaml", ".yml")) and not others[place - 1].startswith("--"):
            return [*others[: place + 1], *overrides, *others[place + 1 :]]
    return words


def room(verb: str) -> Callable[[Any], None]:
    """The function that does the verb's work, imported now."""
    quiet_libraries()
    module, _, function = VERBS[verb][1].partition(":")
    with quick_imports():
        work: Callable[[Any], None] = getattr(importlib.import_module(module), function)
    return work


@contextmanager
def quick_imports() -> Iterator[None]:
    """Keep the garbage collector from what is imported within: all of that stays until the process ends.

    Going through it again and again, and once more at the end, was 1.4 of 5.1 s of a process that imports torch and
    transformers and does nothing else (medians of nine).
    """
    gc.collect()  # what is garbage now would stay too
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def quiet_libraries() -> None:
    """Silence what a user cannot act on: progress bars, advice and deprecations of libraries, not their errors."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not os.environ.get(DEBUG):
        os.environ["RUST_BACKTRACE"] = "0"
    logging.getLogger("DeepSpeed").addFilter(_is_error)  # it sets its own level when it is imported
    logging.getLogger("gensim").setLevel(logging.ERROR)
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|transformers|deepspeed|datasets)\b")


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
