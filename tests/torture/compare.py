"""What a killed run must have kept, and in the end share with the undisturbed one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clpds.manifest import FILE, check_manifest
from clpds.run_folder import TRAINER, read_trainer, whole_checkpoints

OF_THE_MACHINE = ("tokens_per_second", "model_flops_per_second_and_rank", "memory_bytes", "mfu")


def touches(log: Path) -> int:
    """How many steps the second save of a run has, the first that also removes an old checkpoint being the third."""
    saves = Counter(json.loads(line)[0] for line in log.read_text().splitlines())
    return saves[3]


def lines(run: Path) -> int:
    """Complete lines of metrics."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def listing(run: Path) -> list[tuple[str, int]]:
    """Names and sizes below ``run``."""
    return sorted((str(path.relative_to(run)), path.stat().st_size) for path in run.rglob("*") if path.is_file())


def require_sound(run: Path) -> int:
    """Every checkpoint with a name of its own is as it was written, and ``latest`` names one; the newest one's step."""
    folder = run / "checkpoints"
    for manifest in folder.glob(f"step-????????/{FILE}"):
        assert check_manifest(manifest.parent, deep=True) == [], manifest
    whole = whole_checkpoints(run) if folder.exists() else []
    if (folder / "latest").exists():
        assert folder / (folder / "latest").read_text().strip() in whole
    return int(read_trainer(whole[-1])["step"]) if whole else 0


def metrics(run: Path) -> list[dict[str, Any]]:
    """All lines, without what depends on the machine."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in OF_THE_MACHINE} for line in found]


def require_equal(run: Path, whole: Path) -> None:
    """Metrics without a gap or a repeat, checkpoints of the same bytes, nothing left over."""
    assert metrics(run) == metrics(whole)
    assert _hashes(run) == _hashes(whole)
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if "tensorboard" not in path.parts}
    assert names == {path.relative_to(whole).as_posix() for path in whole.rglob("*") if "tensorboard" not in path.parts}


def require_close(run: Path, whole: Path) -> None:
    """The same loss at every step to 1e-5."""
    killed, calm = ([line for line in metrics(folder) if "loss" in line] for folder in (run, whole))
    assert [line["step"] for line in killed] == [line["step"] for line in calm]
    assert [line["loss"] for line in killed] == pytest.approx([line["loss"] for line in calm], abs=1e-5)


def _hashes(run: Path) -> dict[str, str]:
    """Of all files of all checkpoints but the trainer's note, which names the run's folder."""
    found = {}
    for checkpoint in whole_checkpoints(run):
        for name, file in json.loads((checkpoint / FILE).read_text())["files"].items():
            if name != TRAINER:
                found[f"{checkpoint.name}/{name}"] = file["xxh3"]
    return found
