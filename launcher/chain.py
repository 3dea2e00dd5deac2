"""The steps of a recipe as jobs: what each runs and which others it waits for."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clpds.done import is_done
from clpds.folders.inputs import paths
from clpds.recipe import Data, Eval, Recipe, Step, Train, of_step, verb_of
from launcher.profile import Jobs, Profile


@dataclass(frozen=True)
class Job:
    """One sbatch script."""

    name: str
    """The step's; the parts of a step have names of their own."""
    verb: str
    command: str
    resources: Jobs
    after: tuple[str, ...]
    """Names of the jobs that must have ended well."""
    array: int = 0
    """Number of like jobs, which know their number from Slurm; 0: one job."""
    run: Path | None = None
    """Of a training stage: its folder."""


def jobs_of(recipe: Recipe, profile: Profile, overrides: Sequence[str], file: Path) -> list[Job]:
    """The jobs for the steps that are not done yet, in an order in which each comes after those it waits for.

    A step waits for the earlier steps whose output it names. ``file`` is the recipe as the jobs will read it. Raises
    UserError, as `clpds run` does, for an output that was made from something else.
    """
    jobs: list[Job] = []
    waiting: dict[str, Step] = {}
    for name, step in recipe.steps.items():
        if is_done(step, name):
            continue
        after = tuple(earlier for earlier, other in waiting.items() if reads(step, other))
        jobs += _jobs(name, step, profile, [str(file), *overrides], after)
        waiting[name] = step
    return jobs


def reads(step: Step, earlier: Step) -> bool:
    """Whether a path of ``step`` is the output of ``earlier``, in it, or holds it."""
    made: Path | None = getattr(earlier, "out", None)
    if made is None:
        return False
    made, out = made.resolve(), getattr(step, "out", None)
    inputs = [path.resolve() for path in paths(step) if path != out]
    return any(path.is_relative_to(made) or made.is_relative_to(path) for path in inputs)


def _jobs(name: str, step: Step, profile: Profile, words: list[str], after: tuple[str, ...]) -> Iterator[Job]:
    if isinstance(step, Train):
        stage = [words[0], *of_step(words[1:], name), "--step", name]
        yield Job(name, "train", _supervise(stage, profile), profile.train, after, run=step.out)
        return
    run = f"{profile.container} clpds run" if profile.container else "clpds run"
    verb = verb_of(step)
    if isinstance(step, Data) and not step.label_key and profile.array > 1:
        first, shares = f"{name}-read", f"{name}-share"
        command = shlex.join([*words, f"{name}.only=read", "--step", name])
        yield Job(first, verb, f"{run} {command}", profile.cpu, after)
        command = f'{shlex.join(words)} "{name}.only=$SLURM_ARRAY_TASK_ID/{profile.array}" --step {name}'
        yield Job(shares, verb, f"{run} {command}", profile.cpu, (first,), array=profile.array)
        after = (shares,)
    resources = profile.cpu
    if isinstance(step, Eval) and profile.train.gpus_per_node:
        one = profile.train.gres and f"{profile.train.gres.rpartition(':')[0]}:1"
        resources = replace(profile.train, nodes=1, tasks_per_node=1, gpus_per_node=1, gres=one)
    yield Job(name, verb, f"{run} {shlex.join([*words, '--step', name])}", resources, after)


def _supervise(stage: list[str], profile: Profile) -> str:
    words = ["clpds", "supervise", *stage, "--requeue-limit", str(profile.requeue_limit)]
    words += ["--signal-lead", str(profile.signal_lead)]
    words += ["--preflight"] if profile.preflight else []
    words += ["--exclude-bad-nodes"] if profile.exclude_bad_nodes else []
    words += ["--container", profile.container] if profile.container else []
    return shlex.join(words)
