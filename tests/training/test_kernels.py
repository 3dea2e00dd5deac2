"""Whose attention and layers run, as far as a machine without a GPU can tell."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.ranks import run_ranks
from tests.training.stages import curve, refused_each, run_stage, stage, write_inputs


def test_attention_is_a_choice_and_changes_nothing_else(tmp_path: Path) -> None:
    task = stage(write_inputs(tmp_path), tmp_path / "auto")
    tasks = [task, *(replace(task, attention=name, out=tmp_path / name) for name in ("sdpa", "eager"))]
    auto, sdpa, eager = (curve(run_ranks(1, run_stage, one)[0]) for one in tasks)
    assert auto == sdpa  # transformers' choice
    assert eager != sdpa  # other sums, so other last bits
    assert eager == pytest.approx(sdpa, rel=1e-5)


def test_what_is_not_there_is_refused_in_a_line(tmp_path: Path) -> None:
    task = stage(write_inputs(tmp_path), tmp_path / "run")
    tasks = [replace(task, kernels="liger"), replace(task, attention="flash_attention_2")]
    liger, flash = run_ranks(1, refused_each, tasks)[0]
    assert liger == "kernels: liger: it needs a CUDA device; give auto or torch"
    assert flash.startswith("attention: flash_attention_2: FlashAttention2 has been toggled on, but")
    assert not (tmp_path / "run" / "model").exists()
