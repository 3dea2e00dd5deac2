"""`clpds report`: a table that compares only what can be compared, and the same picture every time."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from clpds import cli, recipe
from clpds.errors import UserError
from clpds.report.compare import report
from clpds.report.curves import read_curves


def evaluation(folder: Path, name: str, loss: float, **changes: Any) -> Path:
    file = folder / f"{name}.json"
    numbers = {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / 2, "tokenizer": "t", "text": "x"}
    file.write_text(json.dumps(numbers | changes))
    return file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Metrics as the trainer writes them; validated at steps of which only some are logged."""
    lines: list[dict[str, Any]] = [
        {"step": step, "loss": 6 - step / 10, "tokens": 100 * step} for step in range(2, 21, 2)
    ]
    lines += [{"step": step, "validation": {"german": {"loss": 5.5, "bits_per_byte": 2.0}}} for step in (5, 20)]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "run"


def test_the_command_prints_the_table_and_writes_the_picture(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = evaluation(tmp_path, "a", 5.0), evaluation(tmp_path, "b", 3.0)
    command = ["clpds", "report", "--evals", "random", str(first), "clp", str(second), "--run", str(run)]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "new" / "p.png")])
    cli.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if "random" in line or "clp " in line]
    assert [[cell.strip() for cell in row.strip("│").split("│")] for row in rows] == [
        ["random", "5.0000", "148.41", "2.5000"],
        ["clp", "3.0000", "20.09", "1.5000"],
    ]
    assert (tmp_path / "new" / "p.png").read_bytes().startswith(b"\x89PNG")


def test_equal_numbers_give_equal_bytes_whatever_the_user_s_style(run: Path, tmp_path: Path) -> None:
    evals = {"random": evaluation(tmp_path, "a", 5.0), "clp": evaluation(tmp_path, "b", 3.0)}
    report(recipe.Report(evals=evals, run=run, out=tmp_path / "one.png"))
    with plt.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        report(recipe.Report(evals=evals, run=run, out=tmp_path / "two.png"))
        assert plt.rcParams["font.size"] == 20
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    report(recipe.Report(evals=evals, out=tmp_path / "bars.png"))
    both, bars = plt.imread(tmp_path / "one.png"), plt.imread(tmp_path / "bars.png")
    assert both.shape[1] > bars.shape[1]  # the curve has a panel of its own


def test_a_longer_bar_is_worse(tmp_path: Path) -> None:
    evals = {"a": evaluation(tmp_path, "a", 4.0), "b": evaluation(tmp_path, "b", 2.0)}
    report(recipe.Report(evals=evals, out=tmp_path / "p.png"))
    image = plt.imread(tmp_path / "p.png")[..., :3]
    light, dark = (
        np.isclose(image, np.array(color) / 255, atol=0.01).all(axis=-1) for color in ((86, 180, 233), (0, 114, 178))
    )
    widths = [mask.sum(axis=1).max() for mask in (light, dark)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.02)
    assert np.flatnonzero(light.any(axis=1)).max() < np.flatnonzero(dark.any(axis=1)).min()  # the order given


@pytest.mark.parametrize(
    ("changes", "perplexity", "note"),
    [({}, True, ""), ({"tokenizer": "u"}, False, "tokenizers differ"), ({"text": "y"}, True, "same text")],
)
def test_perplexity_is_shown_where_it_compares(
    changes: dict[str, Any], perplexity: bool, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evals = {"a": evaluation(tmp_path, "a", 4.0), "b": evaluation(tmp_path, "b", 2.0, **changes)}
    report(recipe.Report(evals=evals, out=tmp_path / "p.png"))
    printed = capsys.readouterr().out
    assert ("54.60" in printed) == perplexity
    assert note in printed
    assert ("differ" in printed or "same text" in printed) == bool(note)


def test_validation_stands_at_the_tokens_seen_by_then(run: Path) -> None:
    curves = read_curves(run)
    assert curves.training[0] == (200, 5.8)
    assert curves.validation == {"german": [(500.0, 5.5), (2000.0, 5.5)]}


def test_what_cannot_be_read_is_named(run: Path, tmp_path: Path) -> None:
    good, out = {"a": evaluation(tmp_path, "a", 4.0)}, tmp_path / "p.png"
    (tmp_path / "half.json").write_text('{"loss": 1.0}')
    (tmp_path / "empty").mkdir()
    for step, message in (
        (recipe.Report(evals={"x": tmp_path / "none.json"}, out=out), r"none\.json: No such file"),
        (
            recipe.Report(evals={"x": tmp_path / "half.json"}, out=out),
            r"half\.json \(x\) was not written by .*perplexity",
        ),
        (recipe.Report(evals=good, run=tmp_path / "empty", out=out), r"metrics\.jsonl: No such file"),
    ):
        with pytest.raises(UserError, match=message):
            report(step)
    assert not out.exists()


def test_runs_are_compared_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, losses in {"slow": (6.0, 5.0, 4.0), "quick": (5.0, 4.0, 3.0), "never": (6.0, 5.5, 5.0)}.items():
        lines: list[dict[str, Any]] = []
        for step, loss in zip((0, 10, 20), losses, strict=True):
            cost = {"model_flops": 1e9, "model_flops_per_second_and_rank": 1e9}
            lines += [{"step": step, "loss": loss, "tokens": 100 * step, **cost}] if step else []
            lines += [{"step": step, "tokens": 100 * step, "validation": {"german": {"loss": loss}}}]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["clpds", "report", "slow", "quick", "never", "--out", "new/runs.html"])
    cli.main()
    said = capsys.readouterr().out
    assert "quick reaches 4.000 on german with 50% of the steps saved; never reaches 4.000 on german with none" in said
    page = (tmp_path / "new" / "runs.html").read_text()
    assert page.count("data:image/png") == 2
    assert "quick: german</td><td>5.000</td><td>3.000</td><td>50%" in page
    (tmp_path / "never" / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="never has no validation loss"):
        report(recipe.Report(runs=(Path("slow"), Path("never")), out=Path("other.html")))
    assert not Path("other.html").exists()
