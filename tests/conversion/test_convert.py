"""``clpds convert``: what it writes is what ``save_pretrained`` of the trained model would have written."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from clpds import cli, provenance
from clpds.checkpoint import open_checkpoint
from clpds.conversion.convert import convert, verify
from clpds.conversion.zero import open_zero
from clpds.errors import UserError
from clpds.manifest import hash_files, write_manifest
from clpds.recipe import Convert
from tests.conversion.conftest import Saves
from tests.conversion.saves import CASES, Case, fresh, ids
from tests.tiny import tiny_model, tiny_tokenizer

OURS = {"README.md", "provenance.json"}
RUN = CASES[5]  # zero 3, bfloat16, frozen


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - OURS


def trained_model(case: Case, saves: Saves) -> PreTrainedModel:
    """The model as the engine held it, cast once from the float32 masters."""
    model: PreTrainedModel = fresh(case)
    model.load_state_dict(saves.held[case.name].masters, strict=False)
    return model.to(getattr(torch, case.dtype))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_output_is_what_save_pretrained_writes(
    case: Case, saves: Saves, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, expected = tmp_path / "out", tmp_path / "expected"
    # Experts are views of one tensor to save_pretrained, which may keep two of them in one shard; bytes are the same.
    size = "1GB" if case.shape == "deepseek_v3" else "40KB"
    convert(Convert(model=saves.folder(case), out=out, verify=True, max_shard_size=size))
    assert re.search(r"out: verified, .* all \d+ tensors", capsys.readouterr().out)
    trained_model(case, saves).save_pretrained(expected, max_shard_size=size)
    tiny_tokenizer("byte_bpe", vocab_size=400).save_pretrained(expected)
    assert files(out) == files(expected)
    assert ("model.safetensors.index.json" in files(out)) == (size == "40KB")
    for name in files(expected):
        if name.endswith(".json"):
            assert json.loads((out / name).read_text()) == json.loads((expected / name).read_text()), name
        else:
            assert (out / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_are_the_live_engines(case: Case, saves: Saves, tmp_path: Path) -> None:
    convert(Convert(model=saves.folder(case), out=tmp_path / "out"))
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
    assert model.dtype == getattr(torch, case.dtype)
    with torch.no_grad():
        logits = model.eval()(input_ids=ids(99)).logits
    live = saves.held[case.name].logits
    torch.testing.assert_close(logits, live, rtol=0, atol=1e-6 if case.dtype == "float32" else 0)
    assert (live - fresh(case)(input_ids=ids(99)).logits).abs().max() > 0.01  # it did train


def test_dtype_is_cast_once_from_the_masters(saves: Saves, tmp_path: Path) -> None:
    convert(Convert(model=saves.folder(RUN), out=tmp_path / "out", dtype="float32"))
    written = open_checkpoint(tmp_path / "out")
    assert written.config.dtype == torch.float32
    for name, lazy in written.tensors.items():
        assert torch.equal(lazy.load(), saves.held[RUN.name].masters[name]), name


@pytest.fixture
def run(saves: Saves, tmp_path: Path) -> Path:
    """A run's folder as ``clpds train`` leaves it, with two checkpoints."""
    run = tmp_path / "run"
    shutil.copytree(
        saves.root / RUN.name, run / "model", ignore=shutil.ignore_patterns("global_step*", "latest", "*.py")
    )
    for step in (1, 2):
        folder = shutil.copytree(saves.folder(RUN), run / "checkpoints" / f"step-{step:08d}")
        trainer = {"step": step, "tokens": 4000 * step, "world_size": 2, "finished": step == 2, "stage": {}}
        (folder / "trainer.json").write_text(json.dumps(trainer))
        write_manifest(folder, hash_files(folder.iterdir()))
    (run / "checkpoints" / "latest").write_text("step-00000002\n")
    return run


def test_a_run_is_its_latest_checkpoint(run: Path, tmp_path: Path) -> None:
    convert(Convert(model=run, out=tmp_path / "run-out"))
    convert(Convert(model=run / "checkpoints" / "step-00000001", out=tmp_path / "step-out"))
    latest, first = provenance.read(tmp_path / "run-out"), provenance.read(tmp_path / "step-out")
    assert latest is not None
    assert first is not None
    assert latest["trained"] == {"run": "run", "step": 2, "tokens": 8000, "world_size": 2}
    assert first["trained"]["step"] == 1
    manifest = run / "checkpoints" / "step-00000002" / "manifest.json"
    assert latest["inputs"]["checkpoint"]["sha256"] == provenance.hash_file(manifest)
    assert "at step 2 after 8,000 tokens" in (tmp_path / "run-out" / "README.md").read_text()
    weights = "model.safetensors"
    assert (tmp_path / "run-out" / weights).read_bytes() == (tmp_path / "step-out" / weights).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "run-out").get_vocab()


def test_same_input_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert(Convert(model=run, out=tmp_path / name))
    for name in files(tmp_path / "one") | OURS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def no_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def shorter(checkpoint: Path) -> None:
    file = next(checkpoint.glob("*_rank_1_*_optim_states.pt"))
    file.write_bytes(file.read_bytes()[:-1])


def lost(checkpoint: Path) -> None:
    next(checkpoint.glob("*_rank_1_*_optim_states.pt")).unlink()


@pytest.mark.parametrize("damage", [no_manifest, shorter, lost])
def test_an_incomplete_checkpoint_names_the_one_before(
    damage: Callable[[Path], None], run: Path, tmp_path: Path
) -> None:
    last = run / "checkpoints" / "step-00000002"
    damage(last)
    with pytest.raises(UserError, match=f"^{last} is incomplete.*; convert the one before it: .*/step-00000001$"):
        convert(Convert(model=run, out=tmp_path / "out"))
    damage(run / "checkpoints" / "step-00000001")
    with pytest.raises(UserError, match=f"^{last} is incomplete.*; no earlier one is whole$"):
        convert(Convert(model=run, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def flip(file: Path, where: int) -> None:
    data = bytearray(file.read_bytes())
    data[where] ^= 1
    file.write_bytes(data)


def test_a_damaged_checkpoint_is_not_converted(run: Path, tmp_path: Path) -> None:
    """A flipped byte that no size gives away, in a file that opens."""
    file = next((run / "checkpoints" / "step-00000002").glob("*_rank_1_*_optim_states.pt"))
    flip(file, file.stat().st_size // 2)
    with pytest.raises(UserError, match=f"{file.name} is not what was written.*step-00000001"):
        convert(Convert(model=run, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_verify_finds_one_flipped_byte_of_the_output(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(Convert(model=run, out=out))
    checkpoint = open_zero(run / "checkpoints" / "step-00000002", run / "model")
    verify(out, checkpoint)
    flip(out / "model.safetensors", -1)
    with pytest.raises(UserError, match=r"out is not what was read: \S+ differ"):
        verify(out, checkpoint)


def test_a_run_without_a_checkpoint_says_so(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints" / "latest").unlink()
    with pytest.raises(UserError, match="has no checkpoint yet"):
        convert(Convert(model=run, out=tmp_path / "out"))


@pytest.mark.parametrize("name", ["../model", "step-00000009"])
def test_latest_that_names_no_checkpoint_says_so(name: str, run: Path, tmp_path: Path) -> None:
    (run / "checkpoints" / "latest").write_text(name)
    with pytest.raises(UserError, match=f"latest names '{name}'"):
        convert(Convert(model=run, out=tmp_path / "out"))


def test_a_checkpoint_without_a_config_says_where_to_put_one(copy_of: Callable[[Case], Path], tmp_path: Path) -> None:
    folder = copy_of(RUN)
    config = folder.parent / "config.json"
    text = config.read_text()
    config.unlink()
    with pytest.raises(UserError, match=f"{folder} needs a config.json in {folder} or the folder above it"):
        convert(Convert(model=folder, out=tmp_path / "out"))
    (folder / "config.json").write_text(text)
    convert(Convert(model=folder.parent, out=tmp_path / "out"))  # through DeepSpeed's own `latest`
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_old_bin_files_become_sharded_safetensors_of_another_type(tmp_path: Path) -> None:
    model = tiny_model("gpt2", 400)
    old, out = tmp_path / "old", tmp_path / "out"
    model.config.save_pretrained(old)
    tiny_tokenizer("byte_bpe", vocab_size=400).save_pretrained(old)
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    convert(Convert(model=old, out=out, dtype="bfloat16", max_shard_size="40KB", verify=True))
    assert len(list(out.glob("model-*.safetensors"))) > 1
    again = AutoModelForCausalLM.from_pretrained(out).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again[name], tensor.to(torch.bfloat16)), name


def test_command_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments: list[Any] = ["clpds", "convert", run, tmp_path / "out", "--verify", "--dtype", "float32"]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    cli.main()
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        f"{tmp_path}/out: LlamaForCausalLM, 21,824 parameters, run at step 2 after 8,000 tokens",
        f"{tmp_path}/out: verified, transformers loads it and all 20 tensors are what was read",
    ]
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "exists; choose another folder" in capfd.readouterr().err
