"""`clpds compare-init`: every method that the inputs allow, before training, as a table and a picture."""

import json
import multiprocessing
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clpds import provenance, recipe
from clpds.bounds import RECORD
from clpds.cli import CompareInit, quiet_libraries
from clpds.comparison.candidates import candidates
from clpds.data.read import check_input
from clpds.done import changed_at
from clpds.errors import UserError
from clpds.folders.claim import claimed
from clpds.folders.inputs import inputs_of, paths
from clpds.folders.ours import grow_folder
from clpds.inside import read_json
from clpds.output import human_bytes, write_text
from clpds.progress import progress
from clpds.report.curves import draw


def compare_init(options: CompareInit) -> None:
    """Measure each method in a process of its own; what has been measured before, on equal inputs, is kept.

    Writes ``compare.json`` and ``compare.png`` into ``options.out``, and a JSON file and a log a method.
    Raises UserError where nothing can be measured at all. The error of one method is its line below the table, and at
    the end, with all that is measured written, a UserError names the methods that failed.
    """
    check_input(options.data)
    inputs = recipe.load_recipe(options.recipe, options.overrides)
    steps = candidates(inputs, options.methods)
    read = [path for step in steps.values() for path in inputs_of(step)]
    with claimed(options.out, [inputs.path, options.data, *read]) as claim:
        grow_folder(options.out)
        _compare(steps, options, inputs.path.stem)
        claim.require_unchanged()


def _compare(steps: Mapping[str, recipe.Init], options: CompareInit, name: str) -> None:
    results = []
    with progress("initialising and evaluating (methods)", len(steps)) as advance:
        for label, step in steps.items():
            results.append(_result(label, step, options))
            advance(1)
    failed = [result for result in results if "error" in result]
    if len(failed) == len(results):
        raise UserError(failed[0]["error"])
    results.sort(key=lambda result: result.get("bits_per_byte", float("inf")))
    write_text(options.out / "compare.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    _show(results)
    bars = {result["method"]: result["bits_per_byte"] for result in results if "error" not in result}
    draw(options.out / "compare.png", f"{name}, before training", bars, None, overwrite=True)
    sys.stdout.write(f"picture: {options.out / 'compare.png'}\n")
    if failed:
        which = "; ".join(f"{result['method']}: {result['error'][:100]}" for result in failed)
        raise UserError(f"{len(failed)} of {len(results)} methods failed, the others are in {options.out}: {which}")


def _result(label: str, step: recipe.Init, options: CompareInit) -> dict[str, Any]:
    """The numbers of one method, from its file if that was made from these inputs."""
    name = label.replace(" ", "-")
    file, step = options.out / f"{name}.json", replace(step, out=options.out / name)
    evaluation = recipe.Eval(
        model=step.out, data=options.data, blocks=options.blocks, sequence_length=options.sequence_length
    )
    made_from = {"init": provenance.parameters(step), "eval": provenance.parameters(evaluation)}
    newest = max(changed_at(path) for path in [*paths(step), options.data])
    if file.is_file() and file.stat().st_mtime >= newest:
        before = _numbers_before(file)
        if before.get("made_from") == made_from:
            return before
    child = multiprocessing.get_context("spawn").Process(target=_measure, args=(label, step, evaluation, made_from))
    child.start()
    child.join()
    if child.exitcode == 0:
        return json.loads(file.read_text(encoding="utf-8"))
    log = file.with_suffix(".log")
    if child.exitcode == 2:
        return {"method": label, "error": log.read_text(encoding="utf-8").splitlines()[-1]}
    assert child.exitcode is not None  # joined
    how = f"killed by signal {-child.exitcode}" if child.exitcode < 0 else f"ended with {child.exitcode}"
    why = ", perhaps for memory" if child.exitcode == -signal.SIGKILL else ""
    return {"method": label, "error": f"{how}{why}; see {log}"}


def _numbers_before(file: Path) -> dict[str, Any]:
    """What was measured before; empty where that cannot be read."""
    try:
        before = read_json(file, RECORD)
    except (ValueError, OSError, RecursionError):
        return {}
    return before if isinstance(before, dict) else {}


def _measure(label: str, step: recipe.Init, evaluation: recipe.Eval, made_from: dict[str, Any]) -> None:
    """In the child: make the model in memory and evaluate it; after an error exit with 2, the log says why."""
    quiet_libraries()
    with step.out.with_suffix(".log").open("w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            result = _numbers(step, evaluation)
        except UserError as error:
            log.write(f"{error}\n")
            sys.exit(2)
        except Exception:
            traceback.print_exc(file=log)
            sys.exit(1)
    document = {"method": label, **result, "made_from": made_from}
    write_text(step.out.with_suffix(".json"), json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _numbers(step: recipe.Init, evaluation: recipe.Eval) -> dict[str, Any]:
    from clpds.evaluation.evaluate import measure  # torch, which only the children load
    from clpds.transfer.init import make

    start = time.perf_counter()
    made = make(step)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # before the model is loaded
    how = made.facts["overlap"]
    scored = measure(evaluation, made.result)
    if scored["bits_per_byte"] is None:
        raise UserError(f"{step.source} fills gaps; `clpds compare-init` compares causal models only")
    return {
        "coverage": 1 - how["new"] / sum(how.values()),
        "loss": scored["loss"],
        "bits_per_byte": scored["bits_per_byte"],
        "seconds": round(seconds, 2),
        "peak_bytes": peak,
        "text": scored["text"],
        "tokenizer": scored["tokenizer"],
    }


def _show(results: list[dict[str, Any]]) -> None:
    table = Table(title="before training, the best first", title_justify="left")
    for column in ("method", "shared", "nats a token", "bits per byte", "seconds", "memory"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for result in results:
        if "error" in result:
            continue
        table.add_row(
            result["method"],
            f"{result['coverage']:.1%}",
            f"{result['loss']:.4f}",
            f"{result['bits_per_byte']:.4f}",
            f"{result['seconds']:.1f}",
            human_bytes(result["peak_bytes"]),
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    for result in results:
        if "error" in result:
            console.print(f"{result['method']} failed: {result['error']}", soft_wrap=True)
