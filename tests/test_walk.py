"""The whole way on two real ranks, as a user walks it: one recipe, from raw text to a picture."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from clpds.done import is_done
from clpds.errors import UserError
from clpds.recipe import load_recipe
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer

RECIPE = """
steps:
  tokenizer: {{verb: tokenizer, input: [{dir}/de.jsonl], vocab_size: 500, out: {dir}/tokenizer}}
  data: {{verb: data, input: [{dir}/de.jsonl], tokenizer: {dir}/tokenizer, sequence_length: 64,
          validation_fraction: 0.25, out: {dir}/data}}
  helper-run:
    verb: train
    model: {dir}/helper.json
    data: {{german: {{path: {dir}/data}}}}
    steps: 30
    micro_batch: 4
    global_batch: 8
    deepspeed: cpu.json
    optimizer: {{lr: 1.0e-2}}
    out: {dir}/helper-run
  helper: {{verb: convert, model: {dir}/helper-run, out: {dir}/helper}}
  clp: {{verb: init, source: {dir}/source, helper: {dir}/helper, out: {dir}/clp}}
  train:
    verb: train
    model: {dir}/clp
    data: {{german: {{path: {dir}/data}}}}
    steps: 10
    micro_batch: 4
    global_batch: 8
    deepspeed: cpu.json
    optimizer: {{lr: 1.0e-2}}
    validation: {{every: 5}}
    out: {dir}/train
  german: {{verb: convert, model: {dir}/train, out: {dir}/german, verify: true}}
  before: {{verb: eval, model: {dir}/clp, data: {dir}/data, out: {dir}/before.json}}
  after: {{verb: eval, model: {dir}/german, data: {dir}/data, out: {dir}/after.json}}
  report: {{verb: report, evals: {{before: {dir}/before.json, after: {dir}/after.json}}, run: {dir}/train,
            out: {dir}/picture.png}}
"""


def clpds(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clpds", *arguments], capture_output=True, text=True, check=False, env={**os.environ}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walk")
    (folder / "de.jsonl").write_text("\n".join(json.dumps({"text": part}) for part in text("de", 20)))
    english = tiny_tokenizer("byte_bpe", "en")
    save_model(folder / "source", tiny_model("llama", len(english), max_position_embeddings=256), english)
    tiny_model("llama", 7, hidden_size=16).config.to_json_file(folder / "helper.json", use_diff=False)
    (folder / "recipe.yaml").write_text(RECIPE.format(dir=folder))
    return folder


@pytest.fixture(scope="module")
def walked(folder: Path) -> Path:
    done = clpds("run", str(folder / "recipe.yaml"), "--ranks", "2")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return folder


def test_from_raw_text_to_a_model_that_speaks(walked: Path) -> None:
    folder = walked
    before, after = (json.loads((folder / f"{name}.json").read_text()) for name in ("before", "after"))
    assert after["loss"] < before["loss"]
    assert (folder / "picture.png").stat().st_size > 10_000
    model = AutoModelForCausalLM.from_pretrained(folder / "german")
    tokenizer = AutoTokenizer.from_pretrained(folder / "german")
    ids = tokenizer("Und Gott sprach", return_tensors="pt").input_ids
    torch.manual_seed(0)
    assert model.generate(ids, max_new_tokens=8).shape[1] > ids.shape[1]


def test_finished_steps_are_skipped(walked: Path) -> None:
    folder = walked
    again = clpds("run", str(folder / "recipe.yaml"), "--ranks", "2")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("done before") == 8
    assert again.stderr.count("finished at step") == 2


def test_one_step_can_be_asked_for(walked: Path) -> None:
    one = clpds("run", str(walked / "recipe.yaml"), "--step", "clp")
    assert one.returncode == 0, one.stderr
    assert len(one.stderr.splitlines()) == 1
    assert "clp (init): done before" in one.stderr
    none = clpds("run", str(walked / "recipe.yaml"), "--step", "absent")
    assert none.returncode == 2
    assert "has no step 'absent'" in none.stderr


def test_a_changed_step_is_not_passed_off_as_done(walked: Path) -> None:
    folder = walked
    done = clpds("run", str(folder / "recipe.yaml"), "tokenizer.vocab_size=400")
    assert done.returncode == 2
    assert "was made with vocab_size 500, now 400" in done.stderr


def test_an_option_that_came_later_makes_nothing_stale(walked: Path, tmp_path: Path) -> None:
    out = shutil.copytree(walked / "clp", tmp_path / "clp")
    step = replace(load_recipe(walked / "recipe.yaml").steps["clp"], out=out)
    record = json.loads((out / "provenance.json").read_text())
    del record["parameters"]["link"]
    (out / "provenance.json").write_text(json.dumps(record))
    assert is_done(step, "clp")
    with pytest.raises(UserError, match="was made with link None, now True"):
        is_done(replace(step, link=True), "clp")


def test_a_step_made_from_an_input_that_changed_is_not_passed_off_as_done(walked: Path) -> None:
    folder = walked
    recipe = load_recipe(folder / "recipe.yaml")
    assert is_done(recipe.steps["clp"], "clp")
    assert is_done(recipe.steps["after"], "after")
    before = (folder / "helper" / "provenance.json").read_text()
    record = json.loads(before)
    record["files"]["model.safetensors"] = "0" * 64
    (folder / "helper" / "provenance.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"was made from another .*helper than there is now"):
        is_done(recipe.steps["clp"], "clp")
    (folder / "helper" / "provenance.json").write_text(before)
    (folder / "german" / "provenance.json").touch()
    assert not is_done(recipe.steps["after"], "after")  # numbers are cheap: measured again
    assert is_done(recipe.steps["before"], "before")


def test_bad_input_on_ranks_is_one_line(folder: Path) -> None:
    done = clpds("run", str(folder / "recipe.yaml"), "--ranks", "2", "helper-run.data.german.path=/nowhere")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "/nowhere" in errors[0]
    assert "Traceback" not in done.stderr
