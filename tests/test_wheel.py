"""A wheel holds all that the verbs need, so they work outside a checkout."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from clpds.cli import VERBS

CHECKOUT = Path(__file__).resolve().parents[1]
MODULES = {"yaml": "pyyaml", "thot": "sil-thot", "liger_kernel": "liger-kernel"}  # imported under another name
KINDS = ("ds_configs", "slurm", "recipes")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's packages and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    python = [sys.executable, "-m"]
    subprocess.run([*python, "hatchling", "build", "-t", "wheel", "-d", folder], cwd=CHECKOUT, check=True)
    (wheel,) = folder.glob("*.whl")
    pip = [*python, "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", wheel], check=True)
    return folder / "site"


def run(installed: Path, cwd: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    environment["PYTHONPATH"] = str(installed)  # comes before the checkout that pip made editable
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert "{" + ",".join(VERBS) + "}" in run(installed, tmp_path, "-m", "clpds", "-h")
    assert run(installed, tmp_path, "-m", "clpds", "--version").startswith("clpds ")
    assert Path(run(installed, tmp_path, "-c", "import clpds; print(clpds.__file__)").strip()).is_relative_to(installed)
    assert (installed / "bin" / "clpds").is_file()


def test_every_file_of_the_checkout_is_found(installed: Path, tmp_path: Path) -> None:
    files = [file for kind in KINDS for file in sorted((CHECKOUT / kind).rglob("*")) if file.is_file()]
    assert any(file.name == "cpu.json" for file in files)
    names = [[file.relative_to(CHECKOUT).parts[0], str(Path(*file.relative_to(CHECKOUT).parts[1:]))] for file in files]
    script = (
        "from pathlib import Path\nfrom clpds.resources import find\n"
        f"for kind, name in {names!r}: print(find(kind, Path(name)).resolve())"
    )
    found = [Path(line) for line in run(installed, tmp_path, "-c", script).splitlines()]
    assert len(found) == len(files)
    for ours, theirs in zip(files, found, strict=True):
        assert theirs.is_relative_to(installed)
        assert theirs.read_bytes() == ours.read_bytes()


def test_every_module_travels(installed: Path) -> None:
    for package in ("clpds", "launcher"):
        modules = {file.relative_to(CHECKOUT) for file in (CHECKOUT / package).rglob("*.py")}
        assert modules == {file.relative_to(installed) for file in (installed / package).rglob("*.py")}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_what_is_imported_is_installed_and_explained() -> None:
    """A package that only comes along with another one may be gone with that one's next version."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    declared = {
        re.split(r"[<>=]", name)[0] for name in project["dependencies"] + project["optional-dependencies"]["gpu"]
    }
    files = [*(CHECKOUT / "clpds").rglob("*.py"), *(CHECKOUT / "launcher").rglob("*.py")]
    imported = {name.split(".")[0] for file in files for name in imports(file)}
    foreign = imported - set(sys.stdlib_module_names) - {"clpds", "launcher"}
    assert {MODULES.get(name, name) for name in foreign} <= declared
    table = (CHECKOUT / "docs" / "dependencies.md").read_text()
    explained = re.findall(r"[\w-]+", " ".join(re.findall(r"^\| ([^|]+) \|", table, re.M)))
    assert set(explained) - {"package"} == declared
