"""The picture: bits per byte as bars, and the loss of a training run against its tokens."""

import io
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator

from clpds.bounds import RECORD
from clpds.errors import UserError
from clpds.folders.ours import SOFTWARE
from clpds.inside import read_text
from clpds.output import write_file

# Of the palette of Okabe and Ito, told apart by every kind of colour vision, and in grey.
BLUE, SKY, VERMILION, GREEN, PURPLE = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7"
VALIDATION = (VERMILION, GREEN, PURPLE)
MARKERS = ("o", "s", "^")
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
}
Points = list[tuple[float, float]]  # (predicted tokens, nats a token)


@dataclass
class Curves:
    """Loss of a run, in nats a token, against the predicted tokens it has seen."""

    training: Points = field(default_factory=list)
    validation: dict[str, Points] = field(default_factory=dict)
    """By corpus."""


def read_curves(run: Path) -> Curves:
    """The curves in ``run/metrics.jsonl``; UserError where there are none."""
    path = run / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in read_text(path, RECORD).splitlines()]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run is the folder of a `clpds train`") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} holds a line that is not JSON: {error}") from error
    try:
        return _curves(path, lines)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds a line that is none of `clpds train`: {error!r}") from error


def _curves(path: Path, lines: list[dict[str, Any]]) -> Curves:
    logged = [line for line in lines if "loss" in line]
    if not logged:
        raise UserError(f"{path} has no training loss yet")
    steps, tokens = [line["step"] for line in logged], [line["tokens"] for line in logged]
    curves = Curves([(line["tokens"], line["loss"]) for line in logged])
    for line in lines:
        for corpus, numbers in line.get("validation", {}).items():
            seen = float(np.interp(line["step"], [0, *steps], [0, *tokens]))  # its step need not be a logged one
            curves.validation.setdefault(corpus, []).append((seen, numbers["loss"]))
    return curves


def draw(
    out: Path, title: str, bits_per_byte: Mapping[str, float], curves: Curves | None, *, overwrite: bool = False
) -> None:
    """Write a PNG, whole or not at all: equal numbers and versions give equal bytes."""
    with matplotlib.style.context(["default", STYLE]):
        height = max(3.2, 1.3 + 0.42 * len(bits_per_byte))
        layout = ConstrainedLayoutEngine(w_pad=0.1, wspace=0.04)
        figure = Figure(figsize=(9.6 if curves else 6.0, height), dpi=150, layout=layout)
        canvas = FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        axes = figure.subplots(1, 2 if curves else 1, squeeze=False)[0]
        _bars(axes[0], bits_per_byte)
        if curves:
            _lines(axes[1], curves)
        buffer = io.BytesIO()
        canvas.print_png(buffer, metadata={"Software": SOFTWARE})
    write_file(out, buffer.getvalue(), overwrite=overwrite)


def _bars(axes: Axes, bits_per_byte: Mapping[str, float]) -> None:
    labels = [textwrap.fill(label, 26) for label in bits_per_byte]
    values = list(bits_per_byte.values())
    best = min(values)
    bars = axes.barh(labels, values, height=0.62, color=[BLUE if value == best else SKY for value in values])
    axes.bar_label(bars, fmt="%.2f", padding=4, color="#333333")
    axes.invert_yaxis()
    axes.set_title("held-out text, lower is better")
    axes.set_xlabel("bits per byte")
    axes.set_xlim(0, 1.14 * max(values))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(axis="y", length=0, labelcolor="#333333")
    axes.spines["left"].set_visible(False)


def _lines(axes: Axes, curves: Curves) -> None:
    axes.plot(*zip(*curves.training, strict=True), color=SKY, linewidth=1.0, label="training")
    for number, (corpus, points) in enumerate(curves.validation.items()):
        axes.plot(
            *zip(*points, strict=True),
            color=VALIDATION[number % 3],
            marker=MARKERS[number % 3],
            markersize=5,
            linewidth=1.5,
            label=f"validation: {corpus}",
        )
    axes.set_title("training run")
    axes.set_xlabel("predicted tokens")
    axes.set_ylabel("loss (nats a token)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlim(0, 1.03 * curves.training[-1][0])
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.legend()
