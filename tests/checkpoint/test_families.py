"""Every family, tied and untied: roles discovered, and a copy through clpds equals save_pretrained's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from clpds.checkpoint import anatomy, open_checkpoint, write_checkpoint
from clpds.recipe import Convert
from tests.tiny import CAUSAL, SHAPES, TRELM, save_model, tiny_model

ROWS = 97  # a number that no other dimension has
FAMILIES = pytest.mark.parametrize(
    ("shape", "tied"), [(shape, tied) for shape in (*SHAPES, *TRELM) for tied in (True, False)]
)


def logits(shape: str, model: PreTrainedModel | Path) -> torch.Tensor:
    auto = AutoModelForCausalLM if shape in CAUSAL else AutoModelForMaskedLM
    loaded = auto.from_pretrained(model) if isinstance(model, Path) else model
    with torch.no_grad():
        return loaded.eval()(torch.arange(3, 19).unsqueeze(0)).logits


def copy(source: Path, out: Path, max_shard_size: str = "5GB") -> None:
    step = Convert(model=source, out=out)
    write_checkpoint(open_checkpoint(source), out, step, inputs={}, card="", max_shard_size=max_shard_size)


@FAMILIES
def test_roles_are_those_of_the_real_model(shape: str, tied: bool) -> None:
    model = tiny_model(shape, ROWS, tied=tied)
    found = anatomy(model.config)
    parameters = dict(model.named_parameters())  # a tied one once, under the first name

    state = model.state_dict(keep_vars=True)
    assert state[found.input_embedding] is model.get_input_embeddings().weight
    assert (found.output_embedding is None) == tied
    if found.output_embedding is not None:
        assert state[found.output_embedding] is model.get_output_embeddings().weight
    assert found.shapes.keys() | found.tied.keys() == state.keys()
    assert found.shapes.keys().isdisjoint(found.tied)
    assert all(state[alias] is state[name] for alias, name in found.tied.items())
    assert len(found.shapes) == len(parameters)
    assert {n for n in found.shapes if state[n].shape[0] == ROWS} == set(found.vocabulary)
    assert any(state[n].dim() == 1 for n in found.vocabulary) == (shape not in CAUSAL)  # biases of the head


@FAMILIES
def test_copy_equals_save_pretrained_byte_for_byte(shape: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(shape, ROWS, tied=tied)
    model.save_pretrained(tmp_path / "reference", max_shard_size="20KB")
    copy(save_model(tmp_path / "source", model), tmp_path / "copy", "20KB")

    names = sorted(file.name for file in (tmp_path / "reference").iterdir())
    assert len(names) > 4  # several shards
    assert {*names, "README.md", "provenance.json"} == {file.name for file in (tmp_path / "copy").iterdir()}
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "reference" / name).read_bytes(), name
    assert torch.equal(logits(shape, tmp_path / "copy"), logits(shape, model))


@pytest.mark.parametrize("shape", ["gpt2", "gpt_neox", "bert", "xlm-roberta"])
@pytest.mark.parametrize("tied", [True, False])
def test_legacy_bin_files_hold_tied_tensors_twice(shape: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(shape, ROWS, tied=tied)
    model.config.save_pretrained(tmp_path / "source")
    torch.save(model.state_dict(), tmp_path / "source" / "pytorch_model.bin")
    copy(tmp_path / "source", tmp_path / "copy")
    assert torch.equal(logits(shape, tmp_path / "copy"), logits(shape, model))


def test_files_from_before_zip_archives_open(tmp_path: Path) -> None:
    model = tiny_model("bert", ROWS)
    model.config.save_pretrained(tmp_path / "source")
    torch.save(model.state_dict(), tmp_path / "source/pytorch_model.bin", _use_new_zipfile_serialization=False)
    copy(tmp_path / "source", tmp_path / "copy")
    assert torch.equal(logits("bert", tmp_path / "copy"), logits("bert", model))


def test_experts_are_stacked_when_opened_and_split_when_written(tmp_path: Path) -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**small, vocab_size=ROWS, num_key_value_heads=2, num_local_experts=4))
    model.save_pretrained(tmp_path / "source", max_shard_size="20KB")
    copy(tmp_path / "source", tmp_path / "copy", "20KB")

    opened = open_checkpoint(tmp_path / "source").tensors
    assert opened.keys() == model.state_dict().keys()
    assert all(torch.equal(opened[name].load(), tensor) for name, tensor in model.state_dict().items())
    assert weights(tmp_path / "copy").keys() == weights(tmp_path / "source").keys()
    assert all(torch.equal(tensor, weights(tmp_path / "source")[n]) for n, tensor in weights(tmp_path / "copy").items())
    assert torch.equal(logits("llama", tmp_path / "copy"), logits("llama", model))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def gpt2_without_prefix(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """As on the hub: names of the base model, and causal masks."""
    state = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items()}
    del state["lm_head.weight"]
    return state | {f"h.{layer}.attn.bias": torch.ones(1, 1, 8, 8).tril() for layer in range(2)}


def bert_of_2018(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """As on the hub: old names of norms, and tensors of heads that a language model does not have."""
    spelling = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for name, tensor in model.state_dict().items():
        for new, old in spelling.items():
            name = name.replace(new, old)
        state[name] = tensor
    del state["cls.predictions.decoder.bias"], state["cls.predictions.decoder.weight"]
    others = {"bert.pooler.dense.weight": (32, 32), "bert.pooler.dense.bias": (32,)}
    others |= {"cls.seq_relationship.weight": (2, 32), "cls.seq_relationship.bias": (2,)}
    buffers = {"bert.embeddings.position_ids": torch.arange(128).unsqueeze(0)}
    return state | {name: torch.zeros(shape) for name, shape in others.items()} | buffers


@pytest.mark.parametrize(("shape", "old"), [("gpt2", gpt2_without_prefix), ("bert", bert_of_2018)])
def test_old_files_open_under_the_names_of_today(
    shape: str, old: Callable[[PreTrainedModel], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    model = tiny_model(shape, ROWS)
    model.config.save_pretrained(tmp_path / "source")
    torch.save(old(model), tmp_path / "source" / "pytorch_model.bin")
    copy(tmp_path / "source", tmp_path / "copy")
    assert torch.equal(logits(shape, tmp_path / "copy"), logits(shape, model))


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_model_without_head_keeps_its_class_and_tensors(shape: str, tmp_path: Path) -> None:
    body = AutoModel.from_config(tiny_model(shape, ROWS).config)
    save_model(tmp_path / "source", body)
    found = anatomy(open_checkpoint(tmp_path / "source").config)
    assert (found.model_class, found.has_head, found.output_embedding) == (type(body), False, None)

    copy(tmp_path / "source", tmp_path / "copy")
    again = AutoModel.from_pretrained(tmp_path / "copy")
    assert {n: t.tolist() for n, t in again.state_dict().items()} == {
        n: t.tolist() for n, t in body.state_dict().items()
    }
