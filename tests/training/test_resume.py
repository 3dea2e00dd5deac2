"""A run that was stopped goes on as if it had not been: same ranks bit for bit, other ranks to 1e-5."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clpds.errors import UserError
from clpds.recipe import Corpus, Optimizer, Saving, Train
from clpds.run_folder import read_trainer, whole_checkpoints
from clpds.training.resuming import find_checkpoint
from tests.ranks import run_ranks
from tests.training.stages import curve, read_metrics, refused, refused_each, run_stage, stage, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("resume"), shape="gpt2")  # GPT-2 has dropout


@pytest.fixture(scope="module")
def whole(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Eight steps on two ranks without a break, saved every second step."""
    task = stage(inputs, tmp_path_factory.mktemp("whole") / "run", saving=Saving(every=2, keep_last=3))
    run_ranks(2, run_stage, task)
    return task


def broken_off(task: Train, out: Path, step: int) -> Train:
    """The run as a crash after ``step`` leaves it: later metrics are there, later checkpoints are not."""
    shutil.copytree(task.out, out)
    for checkpoint in whole_checkpoints(out):
        if read_trainer(checkpoint)["step"] > step:
            shutil.rmtree(checkpoint)
    return replace(task, out=out)


def test_same_ranks_bit_for_bit(whole: Train, tmp_path: Path) -> None:
    task = broken_off(whole, tmp_path / "run", 4)
    run_ranks(2, run_stage, task)
    resumed, before = read_metrics(task.out), read_metrics(whole.out)
    assert [line["step"] for line in resumed] == list(range(1, 9))
    assert curve(resumed) == curve(before)
    assert curve(resumed, "grad_norm") == curve(before, "grad_norm")
    assert curve(resumed, "tokens") == curve(before, "tokens")


@pytest.mark.parametrize(("zero", "numbers"), [(3, (1, 4)), (1, (1,)), (2, (4,))])
def test_other_ranks_without_dropout(
    inputs: dict[str, Path], tmp_path: Path, zero: int, numbers: tuple[int, ...]
) -> None:
    config = json.loads((inputs["model"] / "config.json").read_text())
    calm = shutil.copytree(inputs["model"], tmp_path / "model")
    config |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    (calm / "config.json").write_text(json.dumps(config))
    # A large decay on matrices only: a group that got the other's settings would show at once.
    optimizer = Optimizer(lr=2e-3, weight_decay=0.5, clip=0.5)
    task = stage(inputs, tmp_path / "two", model=calm, saving=Saving(every=4), optimizer=optimizer)
    if zero != 3:
        (tmp_path / "zero.json").write_text(json.dumps({"zero_optimization": {"stage": zero}}))
        task = replace(task, deepspeed=tmp_path / "zero.json")
    run_ranks(2, run_stage, task)
    for ranks in numbers:
        other = broken_off(task, tmp_path / f"on-{ranks}", 4)
        run_ranks(ranks, run_stage, replace(other, micro_batch=2))
        assert curve(read_metrics(other.out)) == pytest.approx(curve(read_metrics(task.out)), abs=1e-5)
        assert read_trainer(whole_checkpoints(other.out)[-1])["world_size"] == ranks
        assert not list(other.out.glob("checkpoints/*universal*"))


def test_keeps_the_last_ones_and_latest_is_whole(whole: Train) -> None:
    names = [checkpoint.name for checkpoint in whole_checkpoints(whole.out)]
    assert names == ["step-00000004", "step-00000006", "step-00000008"]
    assert (whole.out / "checkpoints" / "latest").read_text().strip() == names[-1]
    assert not list((whole.out / "checkpoints").glob("*partial"))


def test_a_damaged_checkpoint_is_not_resumed_from(
    whole: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = replace(broken_off(whole, tmp_path / "run", 8), steps=9)
    newest = whole_checkpoints(task.out)[-1]
    same = read_trainer(newest)["identity"]
    states = next(newest.glob("*rank_1*optim_states.pt"))
    content = states.read_bytes()
    states.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])  # opens as well as before
    messages = run_ranks(2, refused, task)
    wrong = f"{states.name} is not what was written (its hash differs)"
    assert f"{newest} is damaged: {wrong}; remove it to go on from the one before" in messages[0]
    assert messages[0] == messages[1]

    states.write_bytes(content[:-100])
    left = [newest.with_name(f"step-00000009.clpds-{suffix}") for suffix in ("partial", "old", "universal")]
    own = newest.with_name("step-00000008.old")
    for folder in (*left, own):
        folder.mkdir()
    found = find_checkpoint(task.out, same)
    assert found is not None
    assert found.name == "step-00000006"
    assert f"{newest} is passed over: {states.name} has" in capsys.readouterr().err
    (newest / "manifest.json").write_text("{")
    assert find_checkpoint(task.out, same) == found
    assert "manifest.json is no valid manifest" in capsys.readouterr().err
    (found / "trainer.json").write_bytes((found / "trainer.json").read_bytes().replace(b"{", b"[", 1))
    with pytest.raises(UserError, match=r"step-00000006/trainer\.json cannot be read"):
        find_checkpoint(task.out, same)
    assert own.exists()
    assert not any(folder.exists() for folder in left)


def test_a_finished_run_does_nothing(whole: Train) -> None:
    before = (whole.out / "metrics.jsonl").read_bytes()
    run_ranks(2, run_stage, whole)
    assert (whole.out / "metrics.jsonl").read_bytes() == before


def test_a_run_goes_on_with_its_own_model_data_and_order_only(
    whole: Train, inputs: dict[str, Path], tmp_path: Path
) -> None:
    stage_file = (whole.out / "stage.json").read_bytes()
    moved = Corpus(path=shutil.copytree(inputs["data"], tmp_path / "moved"))
    heavier = Corpus(path=inputs["data"], weight=2.0)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"seed": 4}, "another seed"),
        ({"trainable": ("*attn*",)}, "another trainable"),
        ({"data": {"german": heavier}}, "another data"),
        ({"data": {"german": moved}}, ""),
    ]
    (messages,) = run_ranks(1, refused_each, [replace(whole, **change) for change, _ in changes])
    for message, (_, word) in zip(messages, changes, strict=True):
        assert (word in message) if word else not message
    assert (whole.out / "stage.json").read_bytes() != stage_file  # only the run that was not refused wrote it
