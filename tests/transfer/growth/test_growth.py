"""A grown model computes what the small one computes, in every family, and can use what was added."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from clpds.checkpoint import Checkpoint, LazyTensor, anatomy, open_checkpoint, write_checkpoint
from clpds.checkpoint.anatomy import meta_model
from clpds.errors import UserError
from clpds.recipe import Init
from clpds.transfer.growth import Growth, grow, measure
from clpds.transfer.growth.axes import FAMILIES
from clpds.transfer.init import init
from tests.tiny import CAUSAL, save_model, text, tiny_model, tiny_tokenizer

VOCABULARY = 600
POST_LN = {"do_layer_norm_before": False, "word_embed_proj_dim": 16}  # as OPT-350m
STREAM_IS_NORMED = ("bloom", "opt post-LN", "opt post-LN-plain", "bert", "roberta")
SHAPES = ("gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", *STREAM_IS_NORMED)


def small_model(shape: str, *, tied: bool = True, **changes: Any) -> PreTrainedModel:
    family, _, post = shape.partition(" ")
    settings = POST_LN if post == "post-LN" else {"do_layer_norm_before": False} if post else {}
    return tiny_model(family, VOCABULARY, tied=tied, **settings, **changes)


def checkpoint_of(model: PreTrainedModel) -> Checkpoint:
    state = model.state_dict()
    return Checkpoint({name: LazyTensor.of(state[name]) for name in anatomy(model.config).shapes}, model.config)


def through_files(folder: Path, model: PreTrainedModel, growth: Growth) -> PreTrainedModel:
    """The grown model as from_pretrained opens it."""
    source = open_checkpoint(save_model(folder / "small", model))
    step = Init(method="grow", source=folder / "small", out=folder / "large", depth=growth.depth or 2)
    write_checkpoint(grow(source, growth), step.out, step, inputs={}, card="")
    auto = AutoModelForCausalLM if model.config.model_type in CAUSAL else AutoModelForMaskedLM
    loaded: PreTrainedModel = auto.from_pretrained(step.out)
    return loaded.eval()


def german() -> Tensor:
    """(4, 64) ids of real text."""
    ids = tiny_tokenizer("byte_bpe", "de")("\n".join(text("de")[:4])).input_ids
    return torch.tensor(ids[: 4 * 64]).view(4, 64)


def growths(shape: str) -> list[Growth]:
    """Every fill that is exact, at sizes that the source's divide and, where it can be, at others."""
    found = [Growth(width=64, depth=5, fill="copy"), Growth(depth=3)]
    return found if shape in STREAM_IS_NORMED else [*found, Growth(width=48, depth=3), Growth(width=64)]


@pytest.mark.parametrize(
    ("shape", "tied", "growth"),
    [(shape, tied, growth) for shape, tied in product(SHAPES, (True, False)) for growth in growths(shape)],
)
def test_a_grown_model_is_the_small_one(shape: str, tied: bool, growth: Growth, tmp_path: Path) -> None:
    small = small_model(shape, tied=tied)
    large = through_files(tmp_path, small, growth)
    tokens = german()
    with torch.no_grad():
        before, after = small(tokens, labels=tokens), large(tokens, labels=tokens)
    assert (after.logits - before.logits).abs().max() <= 1e-5 * before.logits.abs().max()
    assert abs(after.loss - before.loss) < 1e-3
    assert large.num_parameters() > small.num_parameters()
    assert large.config.num_hidden_layers == (growth.depth or 2)
    assert large.config.hidden_size == (growth.width or 32)
    assert large.config.tie_word_embeddings == tied


def test_heads_and_neurons_grow_without_the_width() -> None:
    source = checkpoint_of(small_model("qwen2"))
    for growth in (Growth(heads=8), Growth(heads=6, feed_forward=100), Growth(heads=8, fill="copy")):
        large = grow(source, growth).config
        assert (large.hidden_size, large.head_dim) == (32, 8)
        assert large.num_key_value_heads * 2 == large.num_attention_heads == growth.heads
        difference = measure(source, growth)
        assert difference is not None
        assert difference.relative < 1e-5


@pytest.mark.parametrize("heads", [3, 4, 6])
def test_new_heads_of_bloom_take_slopes_that_are_free(heads: int) -> None:
    source = checkpoint_of(small_model("bloom", hidden_size=48, n_head=heads))
    difference = measure(source, Growth(width=144))
    assert difference is not None
    assert difference.relative < 1e-5


@pytest.mark.parametrize("bias", [True, False])
def test_optional_biases_have_rules(bias: bool) -> None:
    source = checkpoint_of(small_model("llama", attention_bias=bias, mlp_bias=bias))
    difference = measure(source, Growth(width=48, depth=4))
    assert difference is not None
    assert difference.relative < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tied", [True, False])
def test_tables_yield_the_shapes_of_the_grown_class(shape: str, tied: bool) -> None:
    source = checkpoint_of(small_model(shape, tied=tied))
    for growth in growths(shape):
        grown = grow(source, growth)
        parameters = dict(meta_model(grown.config).named_parameters())
        assert grown.tensors.keys() == parameters.keys()
        for name, tensor in grown.tensors.items():
            assert tensor.shape == tensor.load().shape == parameters[name].shape, name


def test_a_tensor_without_a_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = FAMILIES["gpt2"].rules
    monkeypatch.delitem(rules, "transformer.wpe.weight")  # type: ignore[arg-type]  # a dict, declared as a mapping
    with pytest.raises(UserError, match=r"no growth rule for transformer\.wpe\.weight of gpt2"):
        grow(checkpoint_of(small_model("gpt2")), Growth(depth=3))


@pytest.mark.parametrize(
    ("shape", "fill"),
    [
        *product(("gpt2", "opt", "gpt_neox", "llama"), ("zero", "copy")),
        *product(("bloom", "opt post-LN", "bert"), ("copy",)),
    ],
)
def test_what_is_added_learns_and_has_no_twin(shape: str, fill: Any, tmp_path: Path) -> None:
    """After a few steps every coordinate of every grown axis has a value and a gradient of its own."""
    changes = {"activation_function": "gelu"} if "opt" in shape else {}  # a ReLU may be silent on so little text
    small = small_model(shape, **changes)
    large = trained(through_files(tmp_path, small, Growth(width=64, depth=4, fill=fill)))
    old, looked_at = dict(small.named_parameters()), 0
    for name, parameter in large.named_parameters():
        assert parameter.grad is not None
        grown = [d for d in range(parameter.dim()) if name not in old or parameter.shape[d] > old[name].shape[d]]
        for dim in grown:
            looked_at += 1
            for kind, values in (("value", parameter.detach()), ("gradient", parameter.grad)):
                if kind == "gradient" and has_key_bias(name):
                    continue  # the same for every key: the softmax does not see it, in any model
                slices = values.movedim(dim, 0).reshape(values.shape[dim], -1)
                assert (slices.abs().amax(dim=1) > 0).all(), f"{kind} of {name} is dead along {dim}"
                if kind == "gradient" or values.dim() > 1:  # Adam's first steps move numbers by the same amount
                    unlike = len(slices.unique(dim=0)) / len(slices)
                    assert unlike > (0.9 if values.dim() == 1 else 0.99), f"{kind} of {name} has twins along {dim}"
    assert looked_at > 40


def has_key_bias(name: str) -> bool:
    return name.endswith(("k_proj.bias", "key.bias", "query_key_value.bias", "c_attn.bias"))


def trained(model: PreTrainedModel, steps: int = 3) -> PreTrainedModel:
    """After AdamW steps on real text, with the gradient of one step more; dropout off."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = german()
    for step in range(steps + 1):
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        if step < steps:
            optimizer.step()
    return model


def test_new_layers_are_spread_and_made_from_the_one_below() -> None:
    source = checkpoint_of(small_model("llama", num_hidden_layers=4))
    grown = grow(source, Growth(depth=6)).tensors
    origins = [0, 1, 1, 2, 3, 3]
    for layer, origin in enumerate(origins):
        new = layer in (2, 5)
        for part in ("self_attn.q_proj", "mlp.up_proj", "self_attn.o_proj", "mlp.down_proj", "input_layernorm"):
            value = grown[f"model.layers.{layer}.{part}.weight"].load()
            expected = source.tensors[f"model.layers.{origin}.{part}.weight"].load()
            silent = new and part in ("self_attn.o_proj", "mlp.down_proj")
            assert torch.equal(value, torch.zeros_like(expected) if silent else expected)


def test_layer_types_move_with_their_layers() -> None:
    types = ["sliding_attention", "full_attention"]
    source = checkpoint_of(small_model("qwen2", layer_types=types, use_sliding_window=True, sliding_window=8))
    growth = Growth(width=64, depth=4)
    assert grow(source, growth).config.layer_types == [types[0], types[0], types[1], types[1]]
    difference = measure(source, growth)
    assert difference is not None
    assert difference.relative < 1e-5


def test_the_block_of_the_small_model_is_kept_and_the_seed_draws_the_rest() -> None:
    source = checkpoint_of(small_model("llama"))
    name = "model.layers.1.mlp.up_proj.weight"
    draws = [grow(source, Growth(width=48, seed=seed)).tensors[name].load() for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    for drawn in draws:
        assert torch.equal(drawn[:64, :32], source.tensors[name].load())
        assert 0.8 < drawn[64:].std() / drawn[:64, :32].std() < 1.2


def test_noise_and_small_are_near_and_said_to_be() -> None:
    source = checkpoint_of(small_model("llama"))
    small, half, twins = (
        measure(source, growth)
        for growth in (
            Growth(width=64, fill="small"),
            Growth(width=64, fill="zero", noise=0.005),
            Growth(width=64, fill="copy", noise=0.005),
        )
    )
    assert None not in (small, half, twins)
    assert 1e-4 < half.relative < small.relative < 0.1
    assert 1e-4 < twins.relative < 0.1


def test_bfloat16_is_kept_and_shares_add_up_in_it() -> None:
    source = checkpoint_of(small_model("llama", dtype=torch.bfloat16))
    grown = grow(source, Growth(width=64, fill="copy"))
    name = "model.layers.0.mlp.up_proj.weight"
    value = grown.tensors[name].load()
    assert all(tensor.load().dtype == torch.bfloat16 for tensor in grown.tensors.values())
    torch.testing.assert_close(
        value[:64, :32].float() + value[:64, 32:].float(), source.tensors[name].load().float(), rtol=4e-3, atol=0
    )


def test_a_model_too_large_to_be_held_is_measured_on_its_first_layers() -> None:
    source = checkpoint_of(small_model("llama", num_hidden_layers=8))
    growth = Growth(width=64, depth=10)
    whole = sum(tensor.numel for tensor in grow(source, growth).tensors.values())
    found = measure(source, growth, room=whole // 2)
    assert found is not None
    assert 0 < found.layers < 8
    assert found.relative < 1e-5
    assert measure(source, growth, room=1000) is None


def test_a_model_that_is_held_is_measured_at_its_whole_depth() -> None:
    source = checkpoint_of(small_model("llama"))
    little, much = (measure(source, Growth(depth=depth, noise=0.01)) for depth in (3, 6))
    assert little is not None
    assert much is not None
    assert much.relative > 1.1 * little.relative


@pytest.mark.parametrize(
    ("shape", "growth", "message"),
    [
        ("gemma", Growth(width=64), "no growth for models of type 'gemma'; there is for llama"),
        ("gpt2", Growth(width=44), "width 44 is 1.375 times 32, which makes no whole number of heads of 4"),
        ("gpt2", Growth(width=64, heads=6), "6 heads of 8 do not make a width of 64.*give 8 heads"),
        ("llama", Growth(heads=7), "7 heads do not divide into groups of 2"),
        ("llama", Growth(width=16), "cannot grow width from 32 to 16"),
        ("llama", Growth(depth=2), "nothing grows"),
        ("llama", Growth(width=48, fill="copy"), "multiple of the source's width 32, not 48; use fill zero"),
        ("bert", Growth(width=48), "multiple of the source's width 32, not 48$"),
        ("bert", Growth(width=64, fill="zero"), "fill zero cannot widen bert: .*; use fill copy"),
        ("bloom", Growth(width=64, feed_forward=384), "feed-forward size of bloom is always four times the width"),
    ],
)
def test_what_does_not_fit_is_one_line(shape: str, growth: Growth, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        grow(checkpoint_of(small_model(shape)), growth)
    assert "\n" not in str(raised.value)


def test_a_setting_that_the_table_is_wrong_for_is_refused() -> None:
    model = small_model("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UserError, match="scale_attn_by_inverse_layer_idx True"):
        grow(checkpoint_of(model), Growth(depth=3))


def test_a_growth_that_changes_the_function_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("opt post-LN-plain")
    save_model(tmp_path / "small", model, tiny_tokenizer("byte_bpe"))
    unscaled = replace(FAMILIES["opt"], final_norm="model.decoder.final_layer_norm", normed_stream=True)
    monkeypatch.setattr("clpds.transfer.growth.plan.family", lambda config: unscaled)
    step = Init(method="grow", source=tmp_path / "small", out=tmp_path / "large", width=64)
    with pytest.raises(UserError, match="would not keep what this opt computes"):
        init(step)
    assert not step.out.exists()
