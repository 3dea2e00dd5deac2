"""Whatever stands where planning looks for a number, it is one line that names the key, or a plan."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clpds import recipe
from clpds.errors import UserError
from clpds.inspection import inspect
from clpds.planning.cost import Work, options
from clpds.planning.fields import NUMBERS, SWITCHES, TEXTS
from clpds.planning.follow import stage_config
from clpds.planning.gguf_config import gguf_config
from clpds.planning.plan import device_of
from clpds.planning.size import FAMILIES, size_of
from clpds.planning.zero import read_zero
from clpds.recipe import Train, load_recipe
from clpds.resources import find

OTHERS: list[Any] = ["768", "", -1, 0, 1.5, 768.0, True, [768], {"a": 1}, float("nan"), 10**30]


def base(kind: str) -> dict[str, Any]:
    names = FAMILIES[kind].names
    numbers = dict.fromkeys(NUMBERS, 8) | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4}
    return {"model_type": kind} | {names.get(key, key): value for key, value in numbers.items()}


def planned(config: dict[str, Any], folder: Path) -> None:
    """As `clpds plan` does it, without the screen; the tables must answer, not transformers."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps(config))
    (folder / "r.yaml").write_text(
        "steps: {a: {verb: train, model: %s, data: {d: {path: d}}, steps: 2, micro_batch: 1, global_batch: 2, out: o}}"
        % (folder / "model")
    )
    found = load_recipe(folder / "r.yaml")
    stage = found.steps["a"]
    assert isinstance(stage, Train)
    work = Work(size_of(stage_config(found, stage)), stage, 8)
    options(
        work, [read_zero(find("ds_configs", Path("cpu.json")))], device_of("cpu", None), mfu=0.4, tokens_per_second=1
    )


def refusal(work: Callable[..., object], *arguments: Any) -> str:
    """What its UserError says; empty where there was none, and any other exception fails the test."""
    try:
        work(*arguments)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_number_is_a_number(kind: str, tmp_path: Path) -> None:
    good = base(kind)
    planned(good, tmp_path)
    for key in good.keys() - {"model_type"}:
        for value in OTHERS[:-1]:
            with pytest.raises(UserError, match=rf"config\.json: {key} is .*; expected a whole number"):
                planned(good | {key: value}, tmp_path)


@pytest.mark.parametrize("key", [*TEXTS, *SWITCHES, "architectures", "id2label", "attention_bias"])
def test_a_text_is_a_text_and_a_switch_a_switch(key: str, tmp_path: Path) -> None:
    allowed = {"architectures": list, "id2label": dict}.get(key, bool if key in (*SWITCHES, "attention_bias") else str)
    for value in [*OTHERS, [1], 7]:
        if not isinstance(value, allowed) or value == [1] or value == [768]:
            with pytest.raises(UserError, match=rf"config\.json: {key} is "):
                planned(base("llama") | {key: value}, tmp_path)


def test_null_is_a_missing_number(tmp_path: Path) -> None:
    """Then transformers has its say, which may be a default."""
    for key in ("num_key_value_heads", "head_dim", "vocab_size"):
        said = refusal(planned, base("llama") | {key: None}, tmp_path)
        assert said == "" or "transformers builds no model of it" in said


@pytest.mark.parametrize("key", ["num_attention_heads", "hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_family_without_a_table(key: str, tmp_path: Path) -> None:
    for value in ["768", 0, [2], None]:
        config = {"model_type": "olmo", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
                  "vocab_size": 9, "intermediate_size": 8, "max_position_embeddings": 8} | {key: value}  # fmt: skip
        said = refusal(planned, config, tmp_path)
        assert said == "" or "olmo" in said


ZERO_KEYS = [
    "reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size", "sub_group_size",
    "zero_hpz_partition_size", "stage", "offload_param", "offload_optimizer",
]  # fmt: skip


@pytest.mark.parametrize("key", ZERO_KEYS)
def test_a_deepspeed_file(key: str, tmp_path: Path) -> None:
    for value in ["x", -1, True, [1], float("inf"), float("nan")]:
        (tmp_path / "z.json").write_text(json.dumps({"zero_optimization": {"stage": 3, key: value}}))
        with pytest.raises(UserError, match=r"z\.json: .*give"):
            read_zero(tmp_path / "z.json")


GOOD: dict[str, Any] = {
    "general.architecture": "llama", "tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.model": "gpt2",
    **{f"llama.{name}": 8 for name in ("embedding_length", "block_count", "attention.head_count",
       "attention.head_count_kv", "attention.key_length", "feed_forward_length", "context_length")},
    "general.alignment": 32, "general.name": "x",
}  # fmt: skip


def gguf(fields: dict[str, Any]) -> bytes:
    """A file of GGUF 3 with these fields and no tensors."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def value_of(value: Any) -> bytes:
        if isinstance(value, bool):
            return struct.pack("<I?", 7, value)
        if isinstance(value, int):
            return struct.pack("<Iq", 11, value)
        if isinstance(value, float):
            return struct.pack("<Id", 12, value)
        if isinstance(value, str):
            return struct.pack("<I", 8) + text(value)
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(inner) for inner in value)

    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(fields))
    return head + b"".join(text(key) + value_of(value) for key, value in fields.items())


@pytest.mark.parametrize("key", GOOD)
def test_gguf_metadata_of_another_kind(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To plan and to look at; convert and init read the file with transformers, which is told in tests/bad_inputs."""
    file = tmp_path / "x.gguf"
    file.write_bytes(gguf(GOOD))
    assert gguf_config(file)["vocab_size"] == 2
    inspect(recipe.Inspect(path=file))
    for value in ["8", 0, -1, 1.5, True, ["a"], float("nan")]:
        if type(value) is type(GOOD[key]) and value not in (0, -1):
            continue
        file.write_bytes(gguf(GOOD | {key: value}))
        said = [refusal(gguf_config, file), refusal(inspect, recipe.Inspect(path=file))]
        assert any(said)
        assert all("x.gguf" in text and key in text for text in said if text)
