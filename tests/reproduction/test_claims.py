"""A claim from the command to the page, at its smallest size, on real text."""

import json
import sys
from pathlib import Path

import pytest

from clpds import cli
from clpds.cli import Reproduce
from clpds.recipe import Train, load_recipe
from clpds.reproduction.reproduce import PUBLISHED, reproduce


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


@pytest.mark.parametrize("claim", PUBLISHED)
def test_recipes_of_the_published_size_are_named_and_whole(claim: str, capsys: pytest.CaptureFixture[str]) -> None:
    reproduce(Reproduce(claim=claim, size="full"))  # type: ignore[arg-type]
    paths = [Path(line.split(" (")[0]) for line in capsys.readouterr().out.splitlines() if line.startswith("/")]
    assert [path.name for path in paths] == list(PUBLISHED[claim])
    for path in paths:
        stages = [step for step in load_recipe(path).steps.values() if isinstance(step, Train)]
        assert all(stage.steps * stage.global_batch > 10**7 for stage in stages)
