"""Loading, freezing, validating, stopping: what a stage does beside the arithmetic of its steps."""

import json
import math
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import deepspeed
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from clpds import recipe
from clpds.checkpoint import open_checkpoint
from clpds.conversion.convert import convert
from clpds.data.prepare import prepare
from clpds.errors import UserError
from clpds.recipe import Convert, Corpus, Optimizer, Saving, Train, Validation
from clpds.run_folder import read_trainer, whole_checkpoints
from clpds.training.engine import build_model, deepspeed_config
from clpds.training.group import process_group
from clpds.training.loop import train
from clpds.training.setup import open_inputs
from clpds.training.stopping import stop_flag
from tests.ranks import run_ranks
from tests.tiny import save_model, tiny_model, tiny_tokenizer
from tests.training.stages import FP32_ZERO3, curve, read_metrics, refused, run_stage, stage, write_inputs

BF16 = {
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "data_types": {"grad_accum_dtype": "fp32"},
    "communication_data_type": "fp32",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("stage"))


def loaded(folder: Path, config: dict[str, object]) -> dict[str, torch.Tensor]:
    """All parameters after each rank has filled its slices, gathered."""
    with process_group() as device:
        model = build_model(open_checkpoint(folder), config, device)
        assert all(hasattr(parameter, "ds_id") for parameter in model.parameters())
        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            return {name: parameter.detach().float().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("shape", "tied"), [("llama", True), ("gpt_neox", False), ("opt", True)])
def test_sliced_loading_is_from_pretrained(tmp_path: Path, shape: str, tied: bool) -> None:
    folder = save_model(tmp_path / "model", tiny_model(shape, 603, tied=tied))  # 603: no multiple of the ranks
    expected = dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    for found in run_ranks(2, loaded, folder, config):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def sent_to_load(folder: Path) -> int:
    """Elements of the collective calls while the model is made and filled."""
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    with process_group() as device, profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        build_model(open_checkpoint(folder), config, device)
    return sum(math.prod(event.input_shapes[0]) for event in recorded.events() if event.name.startswith("gloo:"))


def test_loading_sends_no_weights(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", tiny_model("llama", 603))
    assert 0 < run_ranks(2, sent_to_load, folder)[0] < 100  # whether all is finite, a flag a tensor


def test_partitions_within_a_node_change_nothing(inputs: dict[str, Path], tmp_path: Path) -> None:
    """With zero_hpz_partition_size DeepSpeed keeps a second copy, made before the weights were read."""
    within = FP32_ZERO3["zero_optimization"] | {"zero_hpz_partition_size": 2}
    (tmp_path / "within.json").write_text(json.dumps({"zero_optimization": within}))
    one = run_ranks(2, run_stage, stage(inputs, tmp_path / "one", steps=2))
    two = run_ranks(2, run_stage, stage(inputs, tmp_path / "two", steps=2, deepspeed=tmp_path / "within.json"))
    assert curve(one[0]) == curve(two[0])


def damaged(model: Path, out: Path, *, scale: float) -> Path:
    """The model with one element of one tensor multiplied, in the second rank's half."""
    shutil.copytree(model, out)
    tensors = load_file(out / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][-1, -1] *= scale
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_nan_stops_every_rank_by_name(inputs: dict[str, Path], tmp_path: Path) -> None:
    model = damaged(inputs["model"], tmp_path / "model", scale=float("nan"))
    messages = run_ranks(2, refused, stage(inputs, tmp_path / "run", model=model))
    assert messages[0] == messages[1]
    assert "model.layers.1.mlp.up_proj.weight" in messages[0]
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_what_does_not_fit_is_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    other = tiny_tokenizer("byte_bpe", "en")
    stranger = save_model(tmp_path / "stranger", tiny_model("llama", len(other)), other)
    small = save_model(tmp_path / "small", tiny_model("llama", 300))
    short = save_model(tmp_path / "short", tiny_model("gpt2", 600, n_positions=32))
    bloom = save_model(tmp_path / "bloom", tiny_model("bloom", 600))
    for model, words in (
        (stranger, "different tokenizers"),
        (small, "300 rows"),
        (short, "32 positions"),
        (bloom, "isolate_documents: false"),
    ):
        (message,) = run_ranks(1, refused, stage(inputs, tmp_path / "run", model=model))
        assert words in message
    missing = {"german": Corpus(path=tmp_path / "nowhere")}
    assert "nowhere" in run_ranks(1, refused, stage(inputs, tmp_path / "run", data=missing))[0]
    assert "'*.embed'" in run_ranks(1, refused, stage(inputs, tmp_path / "run", trainable=("*.embed",)))[0]


def test_deepspeed_file_that_contradicts_the_recipe(inputs: dict[str, Path], tmp_path: Path) -> None:
    def message(config: dict[str, object], ranks: int = 2) -> str:
        (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}} | config))
        with pytest.raises(UserError) as caught:
            deepspeed_config(stage(inputs, tmp_path, deepspeed=tmp_path / "ds.json"), ranks)
        return str(caught.value)

    assert "gradient_clipping is 1.0" in message({"gradient_clipping": 1.0})
    assert "train_batch_size is 4, but global_batch of the recipe is 8" in message({"train_batch_size": 4})
    assert "'scheduler'" in message({"scheduler": {"type": "WarmupLR"}})
    assert "micro_batch x ranks = 2 x 3" in message({}, ranks=3)
    assert "stage is 0; give 1, 2 or 3" in message({"zero_optimization": {"stage": 0}})
    assert "NVMe" in message({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}})
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 1}, "train_batch_size": "auto"}))
    filled = deepspeed_config(stage(inputs, tmp_path, deepspeed=tmp_path / "ds.json"), 2)
    assert (filled["train_batch_size"], filled["gradient_accumulation_steps"]) == (8, 2)


def test_validation_is_the_same_on_any_number_of_ranks(inputs: dict[str, Path], tmp_path: Path) -> None:
    scores = []
    for ranks in (1, 2):
        task = stage(inputs, tmp_path / f"run-{ranks}", steps=2, validation=Validation(every=2, blocks=7))
        run_ranks(ranks, run_stage, task)
        lines = [json.loads(line) for line in (task.out / "metrics.jsonl").read_text().splitlines()]
        scores.append([line["validation"]["german"] for line in lines if "validation" in line])
    for one, other in zip(*scores, strict=True):
        assert one == pytest.approx(other, rel=1e-6)
        assert 2 < one["bits_per_byte"] < 8
    before, after = scores[0]
    assert before["loss"] > after["loss"] + 0.01  # the first one is of the untrained model


def test_validation_on_data_of_its_own(inputs: dict[str, Path], tmp_path: Path) -> None:
    data = recipe.Data(
        input=(inputs["model"].parent / "text.jsonl",),
        tokenizer=inputs["model"],
        sequence_length=64,
        validation_fraction=1,
        workers=1,
        out=tmp_path / "held-out",
    )
    prepare(data)
    chosen = Validation(every=1, blocks=7, data={"mine": data.out})
    task = stage(inputs, tmp_path / "run", steps=1, validation=chosen)
    for _ in range(2):  # the second time as if killed before the first checkpoint: step 0 is not told of twice
        run_ranks(1, run_stage, task)
        lines = [json.loads(line) for line in (task.out / "metrics.jsonl").read_text().splitlines()]
        assert [line["validation"].keys() for line in lines if "validation" in line] == [{"mine"}, {"mine"}]
        shutil.rmtree(task.out / "checkpoints")
    prepare(replace(data, sequence_length=32, out=tmp_path / "short"))
    wrong = replace(task, out=tmp_path / "wrong", validation=replace(chosen, data={"mine": tmp_path / "short"}))
    assert "a stage needs one sequence_length" in run_ranks(1, refused, wrong)[0]


def test_only_what_is_named_trains(inputs: dict[str, Path], tmp_path: Path) -> None:
    task = stage(inputs, tmp_path / "run", trainable=("*embed_tokens*",))
    run_ranks(2, run_stage, task)
    convert(Convert(model=task.out, out=tmp_path / "out"))
    before, after = (load_file(folder / "model.safetensors") for folder in (task.model, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model.embed_tokens.weight"}


def test_tensorboard_shows_the_same_curve(inputs: dict[str, Path], tmp_path: Path) -> None:
    task = stage(inputs, tmp_path / "run", steps=3)
    lines = run_ranks(1, run_stage, task)[0]
    board = EventAccumulator(str(task.out / "tensorboard"))
    board.Reload()
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(curve(lines))
    assert [event.step for event in board.Scalars("grad_norm")] == [1, 2, 3]


def test_a_run_that_diverges_stops_and_keeps_what_is_sound(inputs: dict[str, Path], tmp_path: Path) -> None:
    task = stage(inputs, tmp_path / "run", steps=40, optimizer=Optimizer(lr=1e30), saving=Saving(every=1))
    (message,) = run_ranks(1, refused, task)
    assert "not finite 10 times in a row" in message
    lines = read_metrics(task.out)
    bad = json.loads((task.out / "bad_batches.json").read_text())
    assert [batch["step"] for batch in bad] == list(range(lines[-1]["step"] - 8, lines[-1]["step"] + 2))
    mixture = open_inputs(task).mixture
    for batch in bad:
        assert batch["samples"] == [8 * (batch["step"] - 1), 8 * batch["step"]]
        assert batch["blocks"] == {"german": [mixture.locate(sample)[1] for sample in range(*batch["samples"])]}
    first_bad = next(line["step"] for line in lines if line["loss"] is None or line["grad_norm"] is None)
    assert read_trainer(whole_checkpoints(task.out)[-1])["step"] < first_bad


def test_bf16_follows_float32(inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "bf16.json").write_text(json.dumps(BF16))
    float32 = run_ranks(2, run_stage, stage(inputs, tmp_path / "float32"))[0]
    bf16 = run_ranks(2, run_stage, stage(inputs, tmp_path / "bf16", deepspeed=tmp_path / "bf16.json"))[0]
    assert curve(bf16) == pytest.approx(curve(float32), rel=5e-3)
    assert curve(bf16) != curve(float32)


def run_until_signalled(task: Train) -> int:
    """Train; rank 1 gets SIGUSR1 from outside once the third step is logged. Returns the step reached."""

    def send() -> None:
        while not (task.out / "metrics.jsonl").is_file() or len(read_metrics(task.out)) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    with stop_flag() as flag, process_group() as device:
        if os.environ["RANK"] == "1":
            threading.Thread(target=send, daemon=True).start()
        return train(task, device, flag).step


def test_a_signal_at_one_rank_stops_all_and_loses_nothing(inputs: dict[str, Path], tmp_path: Path) -> None:
    whole = stage(inputs, tmp_path / "whole", steps=40, optimizer=Optimizer(lr=1e-3))
    run_ranks(2, run_stage, whole)
    task = replace(whole, out=tmp_path / "stopped")
    reached = run_ranks(2, run_until_signalled, task)
    assert reached[0] == reached[1]
    assert 3 <= reached[0] < 40
    assert (task.out / "checkpoints" / "latest").read_text().strip() == f"step-{reached[0]:08d}"
    run_ranks(2, run_stage, task)
    assert curve(read_metrics(task.out)) == curve(read_metrics(whole.out))
