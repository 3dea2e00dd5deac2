"""The command ``clpds``: one verb a line; a verb's room is imported only when it is called."""

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from clpds import __version__, recipe
from clpds.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """Run one training stage of a recipe: what every rank runs."""

    recipe: Positional[Path]
    """The recipe."""
    overrides: Positional[tuple[str, ...]] = ()
    """section.key=value of the stage, for instance optimizer.lr=1e-4."""
    step: str | None = None
    """Name of the stage, where the recipe has several."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run all steps of a recipe on this machine; finished steps are skipped."""

    recipe: Positional[Path]
    """The recipe."""
    overrides: Positional[tuple[str, ...]] = ()
    """step.section.key=value, for instance train.optimizer.lr=1e-4."""
    ranks: int = 1
    """Processes for each training stage."""


# verb -> (its options, where it is done)
VERBS: dict[str, tuple[type[Any], str]] = {
    "tokenizer": (recipe.Tokenizer, "clpds.vocabulary.train:train_tokenizer"),
    "data": (recipe.Data, "clpds.data.prepare:prepare"),
    "init": (recipe.Init, "clpds.transfer.init:init"),
    "train": (TrainStep, "clpds.training.entry:train_step"),
    "run": (Run, "clpds.walk:run_recipe"),
    "convert": (recipe.Convert, "clpds.conversion.convert:convert"),
    "eval": (recipe.Eval, "clpds.evaluation.evaluate:evaluate"),
    "report": (recipe.Report, "clpds.report.compare:report"),
    "inspect": (recipe.Inspect, "clpds.inspection:inspect"),
}


def main() -> None:
    """Parse the command line, run the verb; bad input is one line on stderr and exit status 2."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"clpds {__version__}\n")
        return
    options = tyro.extras.subcommand_cli_from_dict(
        {verb: kind for verb, (kind, _) in VERBS.items()},
        prog="clpds",
        description="Start a language model in a new language from one that exists.",
    )
    verb = next(verb for verb, (kind, _) in VERBS.items() if kind is type(options))
    try:
        room(verb)(options)
    except UserError as error:
        sys.stderr.write(f"clpds {verb}: error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"clpds {verb}: interrupted; the same command goes on or starts again\n")
        sys.exit(130)


def room(verb: str) -> Callable[[Any], None]:
    """The function that does the verb's work, imported now."""
    quiet_libraries()
    module, _, function = VERBS[verb][1].partition(":")
    work: Callable[[Any], None] = getattr(importlib.import_module(module), function)
    return work


def quiet_libraries() -> None:
    """Silence what a user cannot act on: progress and advice of libraries, not their errors."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
