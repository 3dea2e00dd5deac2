"""Shared by all tests: real ranks, tiny models, real text. Nothing here reaches the network."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.update(
    DS_ACCELERATOR="cpu",
    HF_HUB_OFFLINE="1",
    CUDA_VISIBLE_DEVICES="",
    OMP_NUM_THREADS="1",
)

from clpds.cli import quiet_libraries

quiet_libraries()

Mount = Callable[[str], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Mount]]:
    """A small disk of its own, and a function that gives it other options of mount."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(path)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here ({done.stderr.decode().strip()})")
    try:
        yield path, lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
