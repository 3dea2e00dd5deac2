"""What a benchmark is given."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers import peer_python

PACKAGES = ("clpds", "torch", "deepspeed", "transformers", "datasets", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True)
class Bench:
    """A folder to work in, and how much to do."""

    folder: Path
    """Kept between runs: inputs in it are made once."""
    quick: bool
    """Smaller inputs and one round: to see that everything runs, not what it costs."""

    @property
    def rounds(self) -> int:
        """How often ours and its peers take turns."""
        return 1 if self.quick else 3

    @property
    def shared(self) -> Path:
        """A folder for text and its tokenizers, which several benchmarks read."""
        return self.folder.parent / "text"

    def peer(self, name: str) -> Path | None:
        """The interpreter of a peer's own environment; None where it does not install."""
        return peer_python(name, self.folder.parent / "peers")

    def about(self) -> dict[str, Any]:
        """The machine and the versions."""
        memory = psutil.virtual_memory().total / 2**30
        return {
            "quick": self.quick,
            "cores": len(os.sched_getaffinity(0)),
            "memory_GiB": round(memory, 1),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        }
