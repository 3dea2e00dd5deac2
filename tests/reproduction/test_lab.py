"""Recipes side by side: all are done, none twice, and one that fails says why."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from clpds.errors import UserError
from clpds.reproduction.lab import Lab
from clpds.run_folder import saved_step
from tests.tiny import text
from tests.training.stages import write_inputs

LAB = """
import sys
from pathlib import Path
from clpds.reproduction.lab import Lab
folder = Path(sys.argv[1])
Lab(folder, folder / "claim", "toy", seeds=1, at_once=1).run("an arm", [folder / "arm.yaml"])
"""


def made(folder: Path, number: int, words: str) -> Path:
    recipe = folder / f"{number}.yaml"
    step = f"{{verb: tokenizer, input: [{folder}/{words}], vocab_size: 300, out: {folder}/{number}}}"
    recipe.write_text(f"steps: {{tokenizer: {step}}}\n")
    return recipe


def test_recipes_run_side_by_side_and_once(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("\n".join(text("de", 40)))
    lab = Lab(tmp_path, tmp_path / "claim", "toy", seeds=1, at_once=2)
    recipes = [made(tmp_path, number, "de.txt") for number in range(3)]
    lab.run("tokenizers", recipes)
    files = [tmp_path / str(number) / "tokenizer.json" for number in range(3)]
    before = [file.stat().st_mtime_ns for file in files]
    lab.run("tokenizers", recipes)
    assert [file.stat().st_mtime_ns for file in files] == before
    with pytest.raises(
        UserError, match=r"3\.yaml ended with status 2: .*no\.txt does not exist.* \(all of it: .*3\.log"
    ):
        lab.run("tokenizers", [*recipes, made(tmp_path, 3, "no.txt")])


def test_a_recipe_comes_after_the_one_that_it_needs(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("\n".join(text("de", 40)))
    lab = Lab(tmp_path, tmp_path / "claim", "toy", seeds=1, at_once=1)
    needed, reader = made(tmp_path, 0, "de.txt"), tmp_path / "data.yaml"
    inputs = f"input: [{tmp_path}/de.txt], tokenizer: {tmp_path}/0"
    step = f"{{verb: data, {inputs}, sequence_length: 16, out: {tmp_path}/d}}"
    reader.write_text(f"steps: {{data: {step}}}\n")
    lab.run("data", [reader, needed], {reader: needed})
    assert (tmp_path / "d" / "provenance.json").is_file()


def test_texts_of_all_languages_hold_out_the_same_chapters(tmp_path: Path) -> None:
    lab = Lab(tmp_path, tmp_path / "claim", "toy", seeds=1, at_once=1)
    lab.write_texts(["en", "de"])
    sizes = {
        name: sum(1 for _ in (lab.texts / f"{name}.jsonl").open()) for name in ("en.heldout", "de.heldout", "de.train")
    }
    assert sizes["en.heldout"] == 3 * sizes["de.heldout"]  # three versions
    assert sizes["de.train"] == pytest.approx(9.5 * sizes["de.heldout"], rel=0.05)  # half of the rest


def test_what_trains_saves_before_a_terminated_command_ends(tmp_path: Path) -> None:
    inputs, run = write_inputs(tmp_path), tmp_path / "run"
    (tmp_path / "arm.yaml").write_text(
        f"steps: {{run: {{verb: train, model: {inputs['model']}, data: {{text: {{path: {inputs['data']}}}}}, "
        f"steps: 100000, micro_batch: 1, global_batch: 1, deepspeed: cpu.json, log_every: 1, out: {run}}}}}\n"
    )
    command = subprocess.Popen([sys.executable, "-c", LAB, str(tmp_path)])
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.is_file() and metrics.stat().st_size):
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    command.terminate()
    assert command.wait() == 143
    assert saved_step(run)
