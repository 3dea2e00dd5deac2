"""What users would take instead, each in an environment of its own: benchmarks/peers.txt says which versions."""

import subprocess
import sys
from pathlib import Path

from rich.console import Console

LIST = Path(__file__).parent / "peers.txt"


def peer_python(name: str, folder: Path) -> Path | None:
    """The interpreter of the peer's environment under ``folder``, made at the first call.

    None where it does not install, which is said; a peer is then left out of the table.
    """
    home = folder / name
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    Console(stderr=True).print(f"installing {name} (once)", highlight=False)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        for requirements in _stages(name):
            subprocess.run([*pip, *requirements], check=True)
    except subprocess.CalledProcessError as error:
        Console(stderr=True).print(f"{name} does not install: {error}", highlight=False)
        return None
    (home / "ready").touch()
    return python


def _stages(name: str) -> list[list[str]]:
    """What is installed together: the lines ``NAME: requirement...`` of the list, in order; KeyError without one."""
    lines = [line.split("#")[0].partition(":") for line in LIST.read_text(encoding="utf-8").splitlines()]
    stages = [rest.split() for key, _, rest in lines if key.strip() == name]
    if not stages:
        raise KeyError(f"{LIST} has no line for {name}")
    return stages
