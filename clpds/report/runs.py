"""`clpds report RUN...`: training runs side by side, as a page; the first is what the others are measured against."""

import shlex
import sys

from clpds import recipe
from clpds.errors import UserError
from clpds.output import write_file
from clpds.report.measure import cost_to_reach, read_curve, validated
from clpds.report.page import draw_figure, page
from clpds.report.result import Figure, Line, Result
from clpds.run_folder import STAGE


def report_runs(step: recipe.Report) -> None:
    """Write the page ``step.out``; UserError for a run without a validation loss to compare."""
    corpora = [set(validated(run)) for run in step.runs]
    for run, names in zip(step.runs, corpora, strict=True):
        if not names:
            raise UserError(f"{run} has no validation loss; set validation.every, and validation.data for common text")
    common = sorted(set.intersection(*corpora))
    if not common:
        raise UserError(f"{step.runs[0]} and {step.runs[-1]} were validated on data of different names")
    result = _result(step, common)
    command = shlex.join(["clpds", "report", *map(str, step.runs), "--out", str(step.out)])
    stages = {f"{run}/{STAGE}": run / STAGE for run in step.runs if (run / STAGE).is_file()}
    text = page(result, [draw_figure(f) for f in result.figures], command=command, recipes=stages)
    write_file(step.out, text.encode(), overwrite=step.overwrite)
    sys.stdout.write(f"{result.measured}\npage: {step.out}\n")


def _result(step: recipe.Report, corpora: list[str]) -> Result:
    rows, figures, said = [], [], []
    for corpus in corpora:
        curves = {str(run): read_curve(run, corpus) for run in step.runs}
        first = curves[str(step.runs[0])]
        goal, whole = float(first.quality.min()), float(first.steps[first.quality.argmin()])
        for name, curve in curves.items():
            steps = cost_to_reach(curve.steps, curve.quality, goal)
            saved = "none" if steps is None or not whole else f"{1 - steps / whole:.0%}"
            rows.append([f"{name}: {corpus}", *(f"{curve.quality[at]:.3f}" for at in (0, -1)), saved])
            if name != str(step.runs[0]):
                said.append(f"{name} reaches {goal:.3f} on {corpus} with {saved} of the steps saved")
        for cost, label in (("tokens", "predicted tokens"), ("flops", "model FLOPs")):
            lines = [Line(name, [getattr(curve, cost)], [curve.quality]) for name, curve in curves.items()]
            figures.append(Figure(f"Loss on {corpus} while training.", label, "nats a prediction", lines))
    return Result(
        title=step.title,
        paper="",
        published="",
        measured="; ".join(said) + "." if said else f"{step.runs[0]} alone.",
        shown=None,
        header=["run: text", "first loss", "last loss", "steps saved"],
        rows=rows,
        figures=figures,
        settings=[("measured against", str(step.runs[0]))],
        numbers={},
    )
