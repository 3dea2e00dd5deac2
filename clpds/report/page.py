"""A result as files: JSON of every number, a PNG a figure, and one HTML page that opens without a network."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import matplotlib.style
import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from clpds import __version__
from clpds.folders.ours import SOFTWARE
from clpds.output import write_text
from clpds.report.curves import BLUE, GREEN, PURPLE, STYLE, VERMILION
from clpds.report.result import Figure, Result

COLORS = (VERMILION, BLUE, GREEN, PURPLE, "#E69F00", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "x")
TEMPLATE = Path(__file__).with_name("page.html.jinja")
PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy")


def write_result(result: Result, out: Path, *, command: str, recipes: Mapping[str, Path]) -> Path:
    """Write ``result.json``, the figures and ``report.html`` into ``out``; equal numbers and versions, equal bytes."""
    pictures = [draw_figure(figure) for figure in result.figures]
    for number, picture in enumerate(pictures, 1):
        (out / f"figure-{number}.png").write_bytes(picture)
    document = {
        "claim": result.title,
        "published": result.published,
        "measured": result.measured,
        "shown": result.shown,
        "command": command,
        "versions": versions(),
        "table": [list(result.header), *map(list, result.rows)],
        "numbers": result.numbers,
    }
    write_text(out / "result.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "report.html", page(result, pictures, command=command, recipes=recipes))
    return out / "report.html"


def page(result: Result, pictures: Sequence[bytes], *, command: str, recipes: Mapping[str, Path]) -> str:
    """One HTML page that opens without a network; ``pictures`` are the result's figures as PNG."""
    jinja = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    titles = [figure.title for figure in result.figures]
    encoded = [base64.b64encode(picture).decode() for picture in pictures]
    return jinja.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        result=result,
        pictures=list(zip(titles, encoded, strict=True)),
        command=command,
        versions=versions(),
        recipes={name: path.read_text(encoding="utf-8") for name, path in recipes.items()},
    )


def versions() -> dict[str, str]:
    """Of what figures depend on."""
    return {"clpds": __version__, **{name: version(name) for name in PACKAGES}}


def draw_figure(figure: Figure) -> bytes:
    """A PNG: the mean over seeds, and the range as a band."""
    with matplotlib.style.context(["default", STYLE]):
        drawn = Canvas(figsize=(7.2, 4.2), dpi=150, layout="constrained")
        canvas = FigureCanvasAgg(drawn)
        _draw(drawn.subplots(), figure)
        buffer = io.BytesIO()
        canvas.print_png(buffer, metadata={"Software": SOFTWARE})
    return buffer.getvalue()


def _draw(axes: Axes, figure: Figure) -> None:
    for number, line in enumerate(figure.lines):
        x = line.x[0]
        seeds = np.array([np.interp(x, own, y) for own, y in zip(line.x, line.y, strict=True)])
        seen = x > 0 if figure.log else x >= 0
        color = COLORS[number % len(COLORS)]
        axes.plot(
            x[seen],
            seeds.mean(axis=0)[seen],
            color=color,
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=1.6,
            label=line.label,
        )
        if len(seeds) > 1:
            low, high = seeds.min(axis=0), seeds.max(axis=0)
            axes.fill_between(x[seen], low[seen], high[seen], color=color, alpha=0.18, linewidth=0)
    if figure.goal:
        name, level = figure.goal
        axes.axhline(level, color="#888888", linewidth=1.0, linestyle=(0, (5, 4)), label=name)
    if figure.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.legend()
