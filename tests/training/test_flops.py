"""The cost of a step against the closed forms of the literature and of mini-model adaptation, written out."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    BertForMaskedLM,
    GraniteMoeConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    RobertaForMaskedLM,
    XLMRobertaForMaskedLM,
)

from clpds.flops import Flops
from clpds.models.minijoint import BertMiniJointForMaskedLM
from clpds.models.trelm import TrelmBertForMaskedLM
from clpds.training.engine import freeze
from clpds.training.flops import step_flops

H, S, V = 768, 512, 50_000
BLOCK = 24 * H**2 + 4 * S * H  # forward, a token
HEAD = 2 * H * V + 2 * H**2  # forward, a predicted position


def encoder(layers: int, cls: type[PreTrainedModel] = BertForMaskedLM, **more: int) -> PreTrainedModel:
    config = cls.config_class(vocab_size=V, hidden_size=H, num_hidden_layers=layers, num_attention_heads=12, **more)
    with torch.device("meta"):
        return cls(config)


def flops(model: PreTrainedModel, *trainable: str) -> Flops:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    freeze(model, trainable or ("*",))
    return step_flops(model, S)


def adapt(layers: int, cls: type[PreTrainedModel] = BertForMaskedLM) -> Flops:
    return flops(
        encoder(layers, cls), "*word_embeddings*", "cls.predictions.bias" if cls is BertForMaskedLM else "*head.bias"
    )


@pytest.mark.parametrize("cls", [BertForMaskedLM, RobertaForMaskedLM, XLMRobertaForMaskedLM])
def test_a_whole_encoder_is_three_times_its_forward_pass(cls: type[PreTrainedModel]) -> None:
    found = flops(encoder(12, cls))
    assert (found.per_token, found.per_prediction) == (3 * 12 * BLOCK, 3 * HEAD)
    assert found.of(1000, 150) == 1000 * found.per_token + 150 * found.per_prediction


@pytest.mark.parametrize("cls", [BertForMaskedLM, RobertaForMaskedLM, XLMRobertaForMaskedLM])
def test_adaptation_passes_gradients_through_a_frozen_body(cls: type[PreTrainedModel]) -> None:
    found = adapt(12, cls)
    assert found.per_token == 12 * (2 * 24 * H**2 + 3 * 4 * S * H)  # products of attention have no frozen factor
    assert found.per_prediction == 3 * 2 * H * V + 2 * 2 * H**2  # the head's transform is frozen too
    assert found.of(1, 0) < flops(encoder(12)).of(1, 0)
    # About the mini-model's advantage over 12 layers if all of a frozen block cost two thirds, 15 % being predicted.
    for layers, ratio in ((4, 2.56), (5, 2.14), (6, 1.84), (8, 1.44)):
        assert found.of(100, 15) / adapt(layers).of(100, 15) == pytest.approx(ratio, abs=0.03)
    assert found.of(100, 0) / adapt(4).of(100, 0) == 3


def test_below_what_trains_there_is_no_backward_pass() -> None:
    found = flops(encoder(6), "bert.encoder.layer.4.*", "bert.encoder.layer.5.*", "cls.*")
    assert found.per_token == (4 + 3 * 2) * BLOCK
    assert found.per_prediction == 2 * 2 * H * V + 3 * 2 * H**2  # through the frozen output matrix, into the transform


def test_a_trilayer_is_one_more_layer_in_the_middle() -> None:
    model = encoder(12, TrelmBertForMaskedLM)
    found = flops(model)
    assert (found.per_token, found.per_prediction) == (3 * 13 * BLOCK, 3 * HEAD)
    above = flops(model, *(f"bert.encoder.layer.{number}.*" for number in range(6, 12)))
    assert above.per_token == (7 + 3 * 6) * BLOCK
    assert flops(model, "*.trilayer.*").per_token == 6 * BLOCK + 3 * BLOCK + 6 * (2 * 24 * H**2 + 3 * 4 * S * H)


def test_two_heads_cost_twice_one_head() -> None:
    found, plain = flops(encoder(12, BertMiniJointForMaskedLM)), flops(encoder(12))
    assert found.per_token == plain.per_token
    assert found.per_prediction == 2 * plain.per_prediction


@pytest.mark.parametrize("tied", [True, False])
def test_a_causal_model_costs_six_n_and_the_products_of_attention(tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=V, hidden_size=H, num_hidden_layers=3, num_attention_heads=12, intermediate_size=2048,
        tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1) - (0 if tied else H * V)
    found = flops(model)
    assert found.of(7, 7) == 7 * (6 * matrices + 12 * 3 * H * S)
    above = flops(model, "model.norm.weight")  # the last norm stands above all layers
    assert above.per_token == (2 * (matrices - H * V) + 4 * 3 * H * S)


TINY = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    "config",
    [
        MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2),
        Qwen2MoeConfig(
            **TINY, num_key_value_heads=4, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=16
        ),  # and a shared one
        GraniteMoeConfig(**TINY, num_local_experts=4, num_experts_per_tok=1),
    ],
    ids=lambda config: config.model_type,
)
def test_experts_count_as_far_as_a_token_meets_them(config: PretrainedConfig) -> None:
    model, tokens = AutoModelForCausalLM.from_config(config, experts_implementation="eager"), 16
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(tokens)[None])
    products = counter.get_flop_counts()["Global"]
    matrices = sum(count for name, count in products.items() if str(name) in ("aten.mm", "aten.addmm"))
    assert step_flops(model, 0).of(tokens, tokens) == 3 * matrices
