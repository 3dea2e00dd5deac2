"""Recipes whose steps would write over what another has are refused where they are read, with both steps named."""

from pathlib import Path

import pytest
import yaml

from clpds.errors import UserError
from clpds.recipe import load_recipe, load_stage

ROOT = Path(__file__).parents[1]


def convert(model: str, out: str) -> dict[str, str]:
    return {"verb": "convert", "model": model, "out": out}


def evaluate(model: str, out: str, data: str = "de.txt") -> dict[str, str]:
    return {"verb": "eval", "model": model, "data": data, "out": out}


def read(folder: Path, *overrides: str, **steps: dict[str, str]) -> None:
    (folder / "r.yaml").write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))
    load_recipe(folder / "r.yaml", overrides)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ({"a": convert("m", "o"), "b": convert("n", "o")}, "steps 'a' and 'b' both write .*/o;"),
        ({"a": convert("m", "o"), "b": convert("n", "x/../o")}, "steps 'a' and 'b' both write"),
        ({"a": convert("m", "o"), "b": convert("n", "link")}, "steps 'a' and 'b' both write"),
        ({"a": convert("m", "o"), "b": evaluate("o", "o/e.json")}, "step 'b' writes .*/o/e.json inside the out of"),
        ({"a": convert("m", "o/in"), "b": convert("n", "o")}, "step 'a' writes .*/o/in inside the out of step 'b'"),
        ({"a": convert("o", "o")}, "step 'a' writes .*/o and reads .*/o;"),
        ({"a": convert("m", "m/o")}, "step 'a' writes .*/m/o and reads .*/m;"),
        ({"a": convert("o/m", "o")}, "step 'a' writes .*/o and reads .*/o/m;"),
        ({"a": evaluate("m", "de.txt")}, "step 'a' writes .*/de.txt and reads .*/de.txt;"),
        ({"a": convert("m", "o"), "b": evaluate("n", "m/e.json")}, "step 'b' writes .*/m/e.json inside .*/m, which"),
        ({"a": convert("x", "y"), "b": convert("y", "x")}, "steps 'a' and 'b' wait for each other"),
        ({"a": convert("z", "x"), "b": convert("x", "y"), "c": convert("y", "z")}, "steps 'a' and 'c' wait for each"),
        ({"a": convert("y", "z"), "b": convert("m", "y")}, "step 'a' reads what step 'b' writes; put 'b' before it"),
    ],
)  # fmt: skip
def test_steps_that_are_not_apart(
    steps: dict[str, dict[str, str]], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("o")
    with pytest.raises(UserError, match=rf"r\.yaml: {says}"):
        read(tmp_path, **steps)


def test_what_may_be_read_and_written_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read(
        tmp_path,
        a=convert("m", "runs/o"),
        in_a=convert("runs/o/model", "runs/o2"),  # a part of what an earlier step writes
        beside=evaluate("runs/o", "runs/o.json"),
        again=evaluate("runs/o", "runs/again.json", data="runs/o.json"),
    )
    read(tmp_path, "b.out=p", a=convert("m", "o"), b=convert("n", "o"))  # mended on the command line


def test_a_stage_is_judged_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` gives it the overrides of its own step only: what others write may have been changed by theirs."""
    monkeypatch.chdir(tmp_path)
    stage = {"verb": "train", "model": "m", "data": {"a": {"path": "d"}}, "out": "o", "steps": 1, "micro_batch": 1}
    steps = {"a": convert("m", "o"), "t": {**stage, "global_batch": 1}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"steps": steps}))
    assert load_stage(tmp_path / "r.yaml")[0] == "t"
    with pytest.raises(UserError, match=r"step 't' writes .*/m/o and reads"):
        load_stage(tmp_path / "r.yaml", ["out=m/o"])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_apart(path: Path) -> None:
    load_recipe(path)
