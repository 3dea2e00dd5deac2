"""A run goes on with the model that it is of, wherever that lies, and begins anew with what the stage says now."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from clpds.checkpoint import open_checkpoint
from clpds.errors import UserError
from clpds.recipe import Train
from clpds.training.changes import changes, said
from clpds.training.group import process_group
from clpds.training.loop import train
from clpds.training.model_folder import write_model_folder
from clpds.training.model_identity import model_identity
from clpds.training.stopping import stop_flag
from tests.ranks import run_ranks
from tests.tiny import SHAPES, TRELM, save_model, tiny_model, tiny_tokenizer
from tests.training.stages import stage, write_inputs

Turn = tuple[dict[Path, dict[str, Any]], Train]
"""What is changed in JSON files, an empty change standing for a folder's removal, and what is started then."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("identity"))


def edit(file: Path, change: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def started_in_turn(turns: list[Turn]) -> list[tuple[str, dict[str, Any], str]]:
    """Of each start its message, the config then in the run's ``model``, and ``stage.json``."""
    found = []
    with stop_flag() as flag, process_group() as device:
        for edits, task in turns:
            for path, change in edits.items():
                edit(path, change) if change else shutil.rmtree(path)
            message = ""
            try:
                train(task, device, flag)
            except UserError as error:
                message = str(error)
            config = json.loads((task.out / "model" / "config.json").read_text())
            found.append((message, config, (task.out / "stage.json").read_text()))
    return found


def test_a_model_in_a_folder(inputs: dict[str, Path], tmp_path: Path) -> None:
    model = shutil.copytree(inputs["model"], tmp_path / "model")
    config, out = model / "config.json", tmp_path / "run"
    task = stage(inputs, out, model=model, steps=1)
    moved = tmp_path / "moved"  # the same in four files, and its config as other versions of the library spell it
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(moved, max_shard_size="60KB")
    tiny_tokenizer("byte_bpe").save_pretrained(moved)
    assert len(list(moved.glob("*.safetensors"))) > 2
    other = save_model(tmp_path / "other", tiny_model("llama", 600, seed=1, bos_token_id=0, eos_token_id=1))
    (tmp_path / "bf16.json").write_text(
        json.dumps(json.loads(inputs["deepspeed"].read_text()) | {"bf16": {"enabled": True}})
    )
    spelt = {"rms_norm_eps": 0.01, "use_cache": False, "transformers_version": "4.40.0", "torch_dtype": "bfloat16"}
    turns: list[Turn] = [
        ({}, task),
        ({out / "checkpoints": {}, config: {"rms_norm_eps": 0.01}}, task),  # as after a crash before the first save
        ({config: {"rms_norm_eps": 0.02}}, replace(task, steps=2)),
        ({moved / "config.json": spelt}, replace(task, steps=2, model=moved)),
        ({other / "config.json": {"rms_norm_eps": 0.01}}, replace(task, steps=3, model=other)),
        ({config: {"rms_norm_eps": 0.01}}, replace(task, steps=3, deepspeed=tmp_path / "bf16.json")),
    ]
    (found,) = run_ranks(1, started_in_turn, turns)
    messages, configs, stages = zip(*found, strict=True)
    assert [messages[0], messages[1], messages[3]] == ["", "", ""]
    assert [one["rms_norm_eps"] for one in configs] == [1e-6, *[0.01] * 5]
    assert f"{out} was started with another model: rms_norm_eps (0.01 then, 0.02 now); choose" in messages[2]
    assert "was started with another model: weights (" in messages[4]
    assert "was started with another precision (float32 then, bfloat16 now)" in messages[5]
    assert stages[2] == stages[1]
    assert stages[5] == stages[4] == stages[3] != stages[2]
    assert all(len(message) < 500 and "\n" not in message for message in messages)


def test_a_model_drawn_from_a_config(inputs: dict[str, Path], tmp_path: Path) -> None:
    described = json.loads((inputs["model"] / "config.json").read_text())
    file, out = tmp_path / "model.json", tmp_path / "run"
    file.write_text(json.dumps(described))
    task = stage(inputs, out, model=file, steps=1)
    changed = {"num_hidden_layers": 1, "tie_word_embeddings": False}
    again = replace(task, seed=4)
    turns: list[Turn] = [
        ({}, task),
        ({file: changed}, replace(task, steps=2)),
        ({file: described}, replace(again, steps=2)),
        ({out / "checkpoints": {}, file: changed}, again),
    ]
    (found,) = run_ranks(1, started_in_turn, turns)
    messages, configs, stages = zip(*found, strict=True)
    assert messages[0] == messages[3] == ""
    assert "another model: num_hidden_layers (2 then, 1 now), model: tie_word_embeddings (true then, fa" in messages[1]
    assert "another seed (3 then, 4 now)" in messages[2]
    assert [one["num_hidden_layers"] for one in configs] == [2, 2, 2, 1]
    assert stages[0] == stages[1] == stages[2] != stages[3]
    torch.manual_seed(4)
    right = LlamaForCausalLM(LlamaConfig(**described | changed)).state_dict()
    drawn = load_file(out / "initial" / "model.safetensors")
    assert drawn.keys() == right.keys()
    assert all(torch.equal(drawn[name], right[name]) for name in drawn)

    note = out / "initial" / "notes.txt"
    note.write_text("mine")
    ((message, _, _),) = run_ranks(1, started_in_turn, [({out / "checkpoints": {}}, task)])[0]
    assert "initial exists and will not be replaced: clpds did not write notes.txt in it" in message
    assert note.exists()
    assert load_file(out / "initial" / "model.safetensors").keys() == right.keys()


@pytest.mark.parametrize("shape", [*SHAPES, *TRELM])
def test_checkpoints_from_before_go_on(tmp_path: Path, shape: str) -> None:
    """Their identity has the model's path, or the recorded hashes of its files; ``model`` has its config."""
    tokenizer = tiny_tokenizer("byte_bpe")
    model = save_model(tmp_path / "model", tiny_model(shape, len(tokenizer)), tokenizer)
    checkpoint = open_checkpoint(model)
    write_model_folder(tmp_path, checkpoint)
    now = {"model": model_identity(checkpoint, model, drawn=False), "seed": 3, "precision": "float32"}
    assert changes(tmp_path, {"model": "elsewhere", "seed": 3}, now) == {}
    recorded = {"config.json": "1" * 64, "model.safetensors": "2" * 64}
    before = {"model": recorded, "seed": 3}
    assert changes(tmp_path, before, now) == {}
    size = (model / "model.safetensors").stat().st_size
    (model / "provenance.json").write_text(json.dumps({"files": recorded}))
    now["model"] = model_identity(checkpoint, model, drawn=False)
    assert now["model"]["files"] == {"model.safetensors": (size, "2" * 64)}
    assert changes(tmp_path, before, now) == {}
    recorded["model.safetensors"] = "3" * 64
    assert list(changes(tmp_path, before, now)) == ["model: model.safetensors"]
    edit(tmp_path / "model" / "config.json", {"pad_token_id": 5})
    found = changes(tmp_path, {"model": "elsewhere", "seed": 3}, now)
    assert said(found) == "another model: pad_token_id (5 then, 2 now)"


def test_a_sample_is_of_values_not_of_files(tmp_path: Path) -> None:
    model = tiny_model("llama", 600, tied=False)
    tokenizer = tiny_tokenizer("byte_bpe")
    whole = save_model(tmp_path / "whole", model, tokenizer)
    pickled = shutil.copytree(whole, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    as_files = {folder: model_identity(open_checkpoint(folder), whole, drawn=False) for folder in (whole, pickled)}
    assert as_files[whole] == as_files[pickled]
    for place in (0, 300, 599):  # rows of the embedding
        with torch.no_grad():
            model.lm_head.weight[place, 0] += 1
        changed = save_model(tmp_path / f"row-{place}", model)
        found = model_identity(open_checkpoint(changed), whole, drawn=False)
        assert {key for key in found if found[key] != as_files[whole][key]} == {"weights"}
        with torch.no_grad():
            model.lm_head.weight[place, 0] -= 1


def test_what_differs_fits_a_line(tmp_path: Path) -> None:
    before = {"data": {f"corpus-{n}": ["0123456789abcdef" * 2, 1.0] for n in range(40)}, "trainable": ["*" * 999]}
    now = {"data": {f"corpus-{n}": ["fedcba9876543210" * 2, 1.0] for n in range(40)}, "trainable": ["*"]}
    line = said(changes(tmp_path, before, now))
    assert line.startswith('another data: corpus-0 (["01234567...", 1.0] then, ["fedcba98...", 1.0] now), data: ')
    assert line.endswith(" more")
    assert len(line) < 350
    assert list(changes(tmp_path, {"language": ["english"]}, {})) == ["language"]
