"""``clpds submit``: every step of a recipe as a Slurm job, each waiting for those whose output it reads."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from clpds.cli import Submit
from clpds.errors import UserError, said
from clpds.folders.claim import made_parents
from clpds.folders.inputs import inputs_of, require_apart
from clpds.recipe import Recipe, load_recipe
from launcher.chain import Job, jobs_of
from launcher.owner import own, taking
from launcher.private import masked, write_new
from launcher.profile import Profile, load_profile, working_folder
from launcher.render import render
from launcher.slurm import command, sbatch
from launcher.time_limit import require_time

JOBS = "jobs.json"


def submit(options: Submit) -> None:
    """Write the scripts, submit them and print the jobs' ids; with ``dry_run`` print the scripts and write nothing.

    Raises UserError, with no job left in the queue, where Slurm refuses one, where a job in the queue owns the folder
    of a training stage, and where the time limit leaves a training job no time to train.
    """
    profile = _asked(options, load_profile(options.profile))
    recipe = load_recipe(options.recipe, options.overrides)
    _check_names(recipe)
    text = recipe.path.read_text(encoding="utf-8")
    folder = working_folder(profile, options.profile)
    os.chdir(folder)
    scripts = _new_folder(recipe)
    for step in recipe.steps.values():
        require_apart(scripts, inputs_of(step))
    snapshot = scripts / recipe.path.name
    jobs = jobs_of(recipe, profile, options.overrides, snapshot)
    if not jobs:
        sys.stderr.write(f"{recipe.path}: every step is done\n")
        return
    if any(job.run for job in jobs):
        require_time("--time" if options.time else str(options.profile), profile.train.time, profile.signal_lead)
    written = {job.name: scripts / f"{number:02d}-{job.name}.sbatch" for number, job in enumerate(jobs, 1)}
    texts = {
        job.name: render(job, profile, recipe=recipe.path, script=written[job.name], folder=folder) for job in jobs
    }
    _warn_of_secrets(options, texts.values())
    if options.dry_run:
        for job in jobs:
            _show_dry(job, written[job.name], masked(texts[job.name])[0])
        return
    with _owning(jobs) as files, _new(scripts, [snapshot, scripts / JOBS, *written.values()]):
        write_new(snapshot, text)
        for job in jobs:
            write_new(written[job.name], texts[job.name])
        ids = _submit_all(jobs, written)
        (scripts / JOBS).write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")
        for name, file in files.items():
            own(file, ids[name], scripts)
    _show(jobs, ids, scripts)


def _asked(options: Submit, profile: Profile) -> Profile:
    """The profile with what the command line says of the training jobs."""
    asked = profile.train
    asked = replace(asked, nodes=options.nodes or asked.nodes, time=options.time or asked.time)
    return replace(profile, train=asked)


def _check_names(recipe: Recipe) -> None:
    for name in recipe.steps:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"{recipe.path}: the step name {name!r} cannot name a job; use letters, digits, . _ and -")


def _new_folder(recipe: Recipe) -> Path:
    """``slurm/0001`` beside what the recipe's steps write, or the next number; not made yet."""
    outs = [out.resolve().parent for step in recipe.steps.values() if (out := getattr(step, "out", None))]
    folder = Path(os.path.commonpath(outs) if outs else Path.cwd()) / "slurm"
    numbers = [int(path.name) for path in folder.glob("[0-9][0-9][0-9][0-9]")]
    return folder / f"{max(numbers, default=0) + 1:04d}"


def _warn_of_secrets(options: Submit, scripts: Iterable[str]) -> None:
    names = dict.fromkeys(name for script in scripts for name in masked(script)[1])
    if names:
        sys.stderr.write(
            f"clpds submit: warning: {options.profile}: {', '.join(names)} looks secret and stands in the scripts, "
            "which only you can read (mode 600); let setup read it from a file of yours instead\n"
        )


@contextmanager
def _new(folder: Path, files: Sequence[Path]) -> Iterator[None]:
    """Make ``folder`` for these ``files``; after an error both are gone again. UserError where it exists."""
    with made_parents(folder):
        try:
            folder.mkdir()
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {said(error)}; submit again") from error
        try:
            yield
        except BaseException:
            for file in files:
                file.unlink(missing_ok=True)
            folder.rmdir()
            raise


@contextmanager
def _owning(jobs: list[Job]) -> Iterator[dict[str, IO[str]]]:
    """Hold the folders of all training stages until their owners are written."""
    with ExitStack() as stack:
        yield {job.name: stack.enter_context(taking(job.run)) for job in jobs if job.run is not None}


def _submit_all(jobs: list[Job], written: dict[str, Path]) -> dict[str, str]:
    ids: dict[str, str] = {}
    try:
        for job in jobs:
            try:
                ids[job.name] = sbatch(str(written[job.name]), [ids[name] for name in job.after])
            except UserError as error:
                raise UserError(f"{job.name}: {error}; no job was left in the queue") from error
    except BaseException:
        if ids:
            with suppress(UserError):
                command("scancel", *ids.values())
        raise
    return ids


def _show_dry(job: Job, script: Path, text: str) -> None:
    after = f" --dependency=afterok:{':'.join(f'<{name}>' for name in job.after)}" if job.after else ""
    sys.stdout.write(f"# sbatch{after} {shlex.quote(str(script))}\n{text}\n")


def _show(jobs: list[Job], ids: dict[str, str], scripts: Path) -> None:
    from rich.console import Console  # a dry run does without
    from rich.table import Table

    table = Table("job", "step", "after", box=None)
    for job in jobs:
        many = f" x {job.array}" if job.array else ""
        table.add_row(ids[job.name], f"{job.name} ({job.verb}{many})", " ".join(ids[name] for name in job.after))
    console = Console()
    console.print(table)
    console.print(f"Scripts and logs: {scripts}", highlight=False, markup=False)
    for run in (job.run for job in jobs if job.run):
        console.print(f"clpds status {run}", highlight=False, markup=False)
