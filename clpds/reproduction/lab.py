"""Where a claim is measured: recipes are written, run side by side, and can be run again by hand."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from jinja2 import Environment, StrictUndefined

from clpds.data.samples import write_chapters, write_task, write_verses
from clpds.done import is_done
from clpds.errors import UserError
from clpds.output import write_text
from clpds.progress import progress
from clpds.recipe import Train, load_recipe
from clpds.resources import find
from clpds.run_folder import read_metrics
from launcher.local import LAUNCHER

EVERY = {"toy": 2, "small": 1}  # of the chapters to train on


@dataclass(frozen=True)
class Lab:
    """A folder, a size, some seeds, and how many recipes may run at once."""

    shared: Path
    """Texts and the models that claims share."""
    folder: Path
    """This claim's, at this size."""
    size: str
    seeds: int
    at_once: int
    written: dict[str, Path] = field(default_factory=dict)
    """The recipes so far, by file name."""

    @property
    def texts(self) -> Path:
        """The texts that claims of this size share."""
        return self.shared / f"texts-{self.size}"

    def said_of_text(self, versions: str) -> tuple[str, str]:
        """The line of a page that says which text was used."""
        part = f"; of the others every {EVERY[self.size]}th" if EVERY[self.size] > 1 else ""
        return "text", f"Bible: {versions}; every twentieth chapter held out, in all versions{part}"

    def write_texts(self, languages: Sequence[str]) -> None:
        """Chapters, task and, beside the first language's, verses of each; made once."""
        every = EVERY[self.size]
        for language in languages:
            if not (self.texts / f"{language}.task.heldout.jsonl").is_file():
                write_chapters(language, self.texts, every)
                write_task(language, self.texts)
            if language != languages[0] and not (self.texts / f"{languages[0]}-{language}.train.txt").is_file():
                write_verses(languages[0], language, self.texts, every)

    def recipe(self, template: str, name: str, **values: Any) -> Path:
        """Fill in ``recipes/reproduce/TEMPLATE.yaml.jinja`` as ``recipes/NAME.yaml`` of the claim's folder."""
        file = find("recipes", Path("reproduce") / f"{template}.yaml.jinja")
        jinja = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        names = {"shared": self.shared, "texts": self.texts, "folder": self.folder}
        out = self.folder / "recipes" / f"{name}.yaml"
        out.parent.mkdir(parents=True, exist_ok=True)
        text = jinja.from_string(file.read_text(encoding="utf-8")).render(**names, **values)
        if not out.is_file() or out.read_text(encoding="utf-8") != text:
            write_text(out, text)
        self.written[out.name] = out
        return out

    def run(self, what: str, recipes: Sequence[Path], after: Mapping[Path, Path] = {}) -> None:
        """Run the recipes that are not done, each in a process of its own, and of these the steps that are not.

        ``after`` names, for a recipe that reads what another one writes, that other one, which comes before it.
        UserError with the last line of the log of the first that fails; the others are then stopped and have saved.
        """
        steps = {path: load_recipe(path).steps for path in recipes}
        waiting = [path for path in recipes if not all(is_done(step, name) for name, step in steps[path].items())]
        at_once = min(self.at_once, max(1, len(waiting)))
        threads = max(1, len(os.sched_getaffinity(0)) // at_once)
        stages = {path: [step for step in steps[path].values() if isinstance(step, Train)] for path in waiting}
        before = {path: sum(_logged(stage) for stage in stages[path]) for path in waiting}
        todo = sum(stage.steps for path in waiting for stage in stages[path]) - sum(before.values())
        running: dict[Path, subprocess.Popen[bytes]] = {}
        with progress(f"{what} (steps)", todo) as advance, _ended(running):
            while waiting or running:
                ready = [path for path in waiting if after.get(path) not in {*waiting, *running}]
                for path in ready[: at_once - len(running)]:
                    waiting.remove(path)
                    running[path] = _start(path, threads)
                time.sleep(0.5)
                for path, process in list(running.items()):
                    status = process.poll()
                    now = sum(_logged(stage) for stage in stages[path])
                    advance(now - before[path])
                    before[path] = now
                    if status is not None:
                        del running[path]
                    if status:
                        raise UserError(_last_words(path, status))


def _start(recipe: Path, threads: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "clpds.reproduction.alone", str(recipe)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), LAUNCHER: str(os.getpid())}
    with recipe.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


@contextmanager
def _ended(running: dict[Path, subprocess.Popen[bytes]]) -> Iterator[None]:
    """After an error, SIGTERM, or Ctrl-C, which the processes have had too: let them save and end."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        for process in running.values():
            process.wait()


def _logged(stage: Train) -> int:
    """The last step in the stage's metrics; 0 before there is one."""
    return max((line["step"] for line in read_metrics(stage.out)[-2:]), default=0)


def _last_words(recipe: Path, status: int) -> str:
    log = recipe.with_suffix(".log")
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = lines[-1] if lines else "it said nothing"
    return f"{recipe} ended with status {status}: {said} (all of it: {log})"
