"""A claim from the command to the page, at its smallest size, on real text."""

import json
import sys
from pathlib import Path

import pytest

from clpds import cli


def test_a_grown_model_starts_where_the_small_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["clpds", "reproduce", "growth", "--size", "toy", "--seeds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    cli.main()
    out = tmp_path / "growth-toy"
    assert f"page: {out}/report.html" in capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    curves = {name: arm["curves"][0]["quality"] for name, arm in result["numbers"]["arms"].items()}
    assert curves["grown"][0] == pytest.approx(curves["on"][0], abs=1e-3)
    assert curves["grown"][0] < curves["random"][0] - 0.5
    assert curves["grown"][-1] < min(curves["random"][-1], curves["on"][-1])
    assert result["shown"]
