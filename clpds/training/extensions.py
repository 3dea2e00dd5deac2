"""What DeepSpeed compiles when a stage offloads: once for the run, in a folder of the run's own, before it is needed.

torch keeps such extensions in one folder of the user's, under a file ``lock`` that a process killed in the meantime
leaves behind; every later start then waits for ever. In the run's folder, which belongs to one training at a time
(``launcher.owner``), a lock that is there at the start is such a file.
"""

import hashlib
import os
import platform
import re
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import deepspeed
import torch.distributed as dist
from torch.utils.cpp_extension import get_cxx_compiler

from clpds.errors import UserError
from clpds.training.group import agree

FOLDER = "torch_extensions"  # in the run's
VARIABLE = "TORCH_EXTENSIONS_DIR"  # torch's own: where it is set, it is kept
LONGEST_BUILD = 600.0  # seconds: an older lock of somebody's is nobody's


def optimizer_device(config: dict[str, Any]) -> str:
    """Where a DeepSpeed configuration wants the optimizer: ``none``, ``cpu`` or ``nvme``."""
    return str((config.get("zero_optimization", {}).get("offload_optimizer") or {}).get("device", "none"))


def build_extensions(run: Path, config: dict[str, Any]) -> None:
    """Compile and load what the stage's optimizer needs; every rank calls it while the training has the run.

    One rank compiles for each kind of processor, since the code is made for the one that compiles it; the others wait.
    Raises UserError on all ranks together: no compiler, or what it says.
    """
    builders = {"none": [], "cpu": ["CPUAdamBuilder"], "nvme": ["CPUAdamBuilder", "AsyncIOBuilder"]}
    names = builders.get(optimizer_device(config), [])
    if not names:
        return
    given = os.environ.get(VARIABLE)
    folder = Path(given) if given else run.resolve() / FOLDER / _kind()
    os.environ[VARIABLE] = str(folder)
    kinds: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(kinds, str(folder))
    # A folder that is given may be on each node's own disk.
    first = os.environ["LOCAL_RANK"] == "0" if given else kinds.index(str(folder)) == dist.get_rank()

    def build() -> None:
        for lock in folder.glob("*/lock") if first else ():
            _require_free(lock) if given else lock.unlink(missing_ok=True)
        if first:
            load()

    def load() -> None:
        for name in names:
            _load(name)

    agree(build)
    agree(load)


def _kind() -> str:
    """A name for what the compiled code depends on: the processor and the packages."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    facts = dict(re.findall(r"^(model name|flags|Features)\s*:(.*)$", text, re.MULTILINE))
    facts |= {name: version(name) for name in ("torch", "deepspeed")} | {"python": sys.version}
    return f"{platform.machine()}-{hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:12]}"


def _require_free(lock: Path) -> None:
    """Wait for another process's build; UserError where there can be none any more."""
    while (made := _made(lock)) is not None:
        if time.time() - made > LONGEST_BUILD:
            raise UserError(
                f"{lock} has been there for more than {LONGEST_BUILD / 60:.0f} minutes, and every build waits for it: "
                "remove it if no process compiles there"
            )
        time.sleep(0.5)


def _made(lock: Path) -> float | None:
    try:
        return lock.stat().st_mtime
    except FileNotFoundError:
        return None


def _load(name: str) -> None:
    """Compile where it is not yet, and load; UserError with the reason."""
    try:
        getattr(deepspeed.ops.op_builder, name)().load(verbose=False)
    except (RuntimeError, ImportError, OSError) as error:
        raise UserError(
            f"the stage offloads its optimizer, for which DeepSpeed compiles {name.removesuffix('Builder')}: "
            f"{_reason(error)} on {platform.node()}"
        ) from error


def _reason(error: Exception) -> str:
    compiler = get_cxx_compiler()
    if shutil.which(compiler) is None:
        return f"the compiler {compiler} is not found; load a module that has it, or name yours in CXX,"
    if shutil.which("ninja") is None:
        return "ninja is not found; pip install ninja,"
    lines = str(error).splitlines()
    said = next((line for line in lines if "error:" in line), lines[0] if lines else type(error).__name__)
    return f"{compiler} fails ({' '.join(said.split())})"
