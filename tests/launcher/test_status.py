"""`clpds status` on a machine without a queue: what the run's folder tells."""

import json
import subprocess
import sys
from pathlib import Path

from clpds.manifest import hash_files, write_manifest
from clpds.run_folder import write_state


def status(run: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clpds", "status", str(run)], capture_output=True, text=True, timeout=60
    )


def training(folder: Path) -> Path:
    """The folder of a run that has done 30 of 100 steps of 1000 tokens, at 500 tokens a second."""
    run = folder / "run"
    checkpoint = run / "checkpoints" / "step-00000020"
    checkpoint.mkdir(parents=True)
    (run / "stage.json").write_text(json.dumps({"steps": 100}))
    lines = [
        {"step": step, "loss": 9 - step / 10, "tokens": step * 1000, "tokens_per_second": 500.0, "mfu": None}
        for step in range(1, 31)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 31, "lo')
    (checkpoint / "trainer.json").write_text(json.dumps({"step": 20, "world_size": 4, "finished": False}))
    write_manifest(checkpoint, hash_files([checkpoint / "trainer.json"]))
    write_state(run, "training")
    return run


def test_progress_speed_and_the_estimated_end(tmp_path: Path) -> None:
    told = " ".join(status(training(tmp_path)).stdout.split())
    for words in (
        "state training", "step 30 of 100 (30%)", "loss 6.0000", "speed 500 tokens/s", "to train 0:02:20, until",
        "checkpoint step-00000020", "by 4 ranks",
    ):  # fmt: skip
        assert words in told


def test_a_broken_checkpoint_is_not_shown_as_the_last(tmp_path: Path) -> None:
    run = training(tmp_path)
    (run / "checkpoints" / "step-00000020" / "trainer.json").write_text("{}")
    assert "none yet" in status(run).stdout


def test_why_a_run_failed(tmp_path: Path) -> None:
    run = training(tmp_path)
    write_state(run, "failed", step=20, reason="lower optimizer.lr")
    assert "failed: lower optimizer.lr" in status(run).stdout


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    for folder, said in ((tmp_path / "absent", "is no folder"), (tmp_path, "is no run")):
        done = status(folder)
        assert done.returncode == 2
        assert done.stderr.startswith(f"clpds status: error: {folder} {said}")
        assert done.stderr.count("\n") == 1
