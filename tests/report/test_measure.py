"""What a training's metrics are made into."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clpds.recipe import Validation
from clpds.report.measure import Spread, cost_to_reach, read_curve, spent_until, total_flops
from tests.ranks import run_ranks
from tests.training.stages import read_metrics, run_stage, stage, write_inputs

TENTHS = st.integers(0, 100).map(lambda tenths: tenths / 10)


@given(st.lists(TENTHS, min_size=2, max_size=12), TENTHS, st.booleans())
def test_the_cost_of_a_goal_is_where_the_best_so_far_crosses_it(
    quality: list[float], goal: float, higher: bool
) -> None:
    """Against walking along the curve in small steps."""
    cost = np.arange(len(quality), dtype=float) ** 2
    found = cost_to_reach(cost, np.array(quality), goal, higher=higher)
    best = np.maximum.accumulate(quality) if higher else np.minimum.accumulate(quality)
    fine = np.linspace(0, cost[-1], 20_001)
    along = np.interp(fine, cost, best)
    reached = fine[along >= goal] if higher else fine[along <= goal]
    if found is None:
        assert not len(reached)
    else:
        assert float(np.interp(found, cost, best)) == pytest.approx(goal, abs=1e-6) or found == 0
        assert not len(reached) or found <= reached[0] + 1e-9


def test_a_run_is_measured_as_it_logged(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    every = {"validation": Validation(every=3, blocks=4)}
    run_ranks(1, run_stage, stage(inputs, tmp_path / "run", steps=7, **every))
    run_ranks(1, run_stage, stage(inputs, tmp_path / "seldom", steps=7, log_every=2, **every))
    lines = read_metrics(tmp_path / "run")
    flops = np.cumsum([0, *(line["model_flops"] for line in lines)])
    steps, tokens, spent, seconds = spent_until(tmp_path / "run", [0, 3, 7])
    assert steps.tolist() == [0, 3, 7]
    assert tokens.tolist() == [0, lines[2]["tokens"], lines[6]["tokens"]]
    assert spent.tolist() == flops[[0, 3, 7]].tolist()
    assert 0 == seconds[0] < seconds[1] < seconds[2]
    curve = read_curve(tmp_path / "run", "german")
    assert curve.steps.tolist() == [0, 3, 6, 7]
    assert (curve.quality.argmax(), curve.flops.tolist()) == (0, flops[[0, 3, 6, 7]].tolist())
    assert total_flops(tmp_path / "run") == flops[-1]
    seldom = read_curve(tmp_path / "seldom", "german")
    assert seldom.quality.tolist() == curve.quality.tolist()
    assert seldom.flops[:3].tolist() == curve.flops[:3].tolist()  # every step of a causal model costs the same


def test_a_spread_says_what_it_is_of() -> None:
    assert Spread((1.0,)).said() == "1.00"
    assert Spread((1.0, 2.0, 3.0)).said(".1f") == "2.0 ± 1.0"
