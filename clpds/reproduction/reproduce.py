"""`clpds reproduce`: a claim of one of the five papers, measured here, as numbers, figures and a page."""

import importlib
import os
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clpds.cli import Reproduce
from clpds.errors import UserError
from clpds.folders.claim import claimed
from clpds.folders.ours import grow_folder
from clpds.report.page import write_result
from clpds.report.result import Result
from clpds.reproduction.lab import Lab
from clpds.resources import find

PUBLISHED = {  # recipes of the papers' own size
    "clp": ("gpt2-xl-german.yaml", "bloom-7b-german.yaml"),
    "wechsel": ("gpt2-chinese.yaml", "gpt2-swahili.yaml"),
}


def reproduce(options: Reproduce) -> None:
    """Measure ``options.claim`` in ``options.out``; what is there already is not done again.

    At the size ``full``, which wants a cluster, nothing is run: the recipes are named. UserError where there is none.
    """
    if options.size == "full":
        return name_recipes(options.claim)
    lab = Lab(
        shared=options.out,
        folder=options.out / f"{options.claim}-{options.size}",
        size=options.size,
        seeds=options.seeds,
        at_once=options.jobs or len(os.sched_getaffinity(0)),
    )
    room = importlib.import_module(f"clpds.reproduction.{options.claim}")
    grow_folder(options.out)
    with claimed(lab.folder):
        grow_folder(lab.folder)
        result: Result = getattr(room, options.claim)(lab)
        command = ["clpds", "reproduce", options.claim, "--size", options.size, "--seeds", str(options.seeds)]
        page = write_result(result, lab.folder, command=shlex.join(command), recipes=lab.written)
    show(result)
    sys.stdout.write(f"page: {page}\n")


def name_recipes(claim: str) -> None:
    """Where those of the published size lie, and what to type."""
    if claim not in PUBLISHED:
        raise UserError(f"--size full has no recipe for {claim}; it has some for {' and '.join(PUBLISHED)}")
    for name in PUBLISHED[claim]:
        recipe = find("recipes", Path(name))
        sys.stdout.write(
            f"{recipe} (its first lines say what it needs)\n"
            f"    clpds plan {name} --gpu A100-80GB --gpus-per-node 8\n"
            f"    clpds submit {name} --profile my-cluster.yaml\n"
        )


def show(result: Result) -> None:
    """The table and the verdict on the screen."""
    table = Table(*result.header)
    for column in table.columns[1:]:  # the first, of names, gives way on a narrow screen
        column.no_wrap, column.justify = True, "right"
    for row in result.rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(result.title, soft_wrap=True)
    console.print(table)
    console.print(f"claimed: {result.published}", soft_wrap=True)
    console.print(f"measured: {result.measured}", soft_wrap=True)
