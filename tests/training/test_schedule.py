"""The learning rate at the places where users look."""

from itertools import pairwise

import pytest

from clpds.recipe import Optimizer, Schedule
from clpds.training.schedule import learning_rate
from tests.training.stages import stage


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_shape(kind: str, tmp_path: str) -> None:
    paths = {"model": tmp_path, "data": tmp_path, "deepspeed": tmp_path}
    schedule = Schedule(kind=kind, warmup_steps=10, decay_steps=20, min_lr_ratio=0.1)
    task = stage(paths, tmp_path, steps=100, optimizer=Optimizer(lr=1.0), schedule=schedule)
    rates = [learning_rate(task, step) for step in range(100)]
    assert rates[0] > 0  # no step is wasted
    assert rates[10] == pytest.approx(1.0)
    assert max(rates) == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.1)
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a >= b for a, b in pairwise(rates[10:]))
    if kind == "wsd":
        assert rates[10:81] == pytest.approx([1.0] * 71)
    if kind == "linear":
        assert rates[10] - rates[11] == pytest.approx(rates[98] - rates[99])
