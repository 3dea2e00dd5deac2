"""Names and shapes of the usual families' parameters, as transformers has them.

A table, so that a login node need not import torch. ``tests/planning/test_size.py`` compares every
family with the model class on the meta device, name by name.

Symbols of a shape: V vocabulary, h hidden, f feed-forward, q heads x head size, k key-value heads x
head size, d head size, P positions, t token types. ``*`` in a name stands for the number of a layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Norm = Literal["rms", "layer"]


@dataclass(frozen=True)
class Family:
    """One ``model_type``."""

    model_class: str
    shapes: Mapping[str, str]
    """Parameter name to the symbols of its shape, without the output matrix."""
    head: Mapping[str, str]
    """The output matrix, which is there unless tied to the input embedding, and what is tied with it."""
    tied: bool
    """Whether it is, where the config does not say."""
    norm: Norm
    gated: bool
    """Whether the feed-forward layer has a gate."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What this family's config calls hidden_size and so on."""
    plain: Mapping[str, Any] = field(default_factory=dict)
    """Settings that change shapes, with the value that the table is right for."""


def _biased(modules: Mapping[str, str]) -> dict[str, str]:
    """Modules whose bias is as long as the first dimension of their weight."""
    shapes = {}
    for name, shape in modules.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape.split()[0]
    return shapes


_HEAD = {"lm_head.weight": "V h"}
_LLAMA = {
    "model.embed_tokens.weight": "V h",
    "model.layers.*.self_attn.q_proj.weight": "q h",
    "model.layers.*.self_attn.k_proj.weight": "k h",
    "model.layers.*.self_attn.v_proj.weight": "k h",
    "model.layers.*.self_attn.o_proj.weight": "h q",
    "model.layers.*.mlp.gate_proj.weight": "f h",
    "model.layers.*.mlp.up_proj.weight": "f h",
    "model.layers.*.mlp.down_proj.weight": "h f",
    "model.layers.*.input_layernorm.weight": "h",
    "model.layers.*.post_attention_layernorm.weight": "h",
    "model.norm.weight": "h",
}
_QWEN2 = _LLAMA | {
    "model.layers.*.self_attn.q_proj.bias": "q",
    "model.layers.*.self_attn.k_proj.bias": "k",
    "model.layers.*.self_attn.v_proj.bias": "k",
}
_QWEN3 = _LLAMA | {
    "model.layers.*.self_attn.q_norm.weight": "d",
    "model.layers.*.self_attn.k_norm.weight": "d",
}
_GPT2 = {
    "transformer.wte.weight": "V h",
    "transformer.wpe.weight": "P h",
    **_biased({"transformer.h.*.ln_1": "h", "transformer.h.*.ln_2": "h", "transformer.ln_f": "h"}),
    # Conv1D: the weight lies the other way round.
    "transformer.h.*.attn.c_attn.weight": "h 3h",
    "transformer.h.*.attn.c_attn.bias": "3h",
    "transformer.h.*.attn.c_proj.weight": "h h",
    "transformer.h.*.attn.c_proj.bias": "h",
    "transformer.h.*.mlp.c_fc.weight": "h f",
    "transformer.h.*.mlp.c_fc.bias": "f",
    "transformer.h.*.mlp.c_proj.weight": "f h",
    "transformer.h.*.mlp.c_proj.bias": "h",
}
_GPT_NEOX = {
    "gpt_neox.embed_in.weight": "V h",
    **_biased({
        "gpt_neox.layers.*.input_layernorm": "h",
        "gpt_neox.layers.*.post_attention_layernorm": "h",
        "gpt_neox.layers.*.attention.query_key_value": "3h h",
        "gpt_neox.layers.*.attention.dense": "h h",
        "gpt_neox.layers.*.mlp.dense_h_to_4h": "f h",
        "gpt_neox.layers.*.mlp.dense_4h_to_h": "h f",
        "gpt_neox.final_layer_norm": "h",
    }),
}  # fmt: skip
_BLOOM = {
    "transformer.word_embeddings.weight": "V h",
    **_biased({
        "transformer.word_embeddings_layernorm": "h",
        "transformer.h.*.input_layernorm": "h",
        "transformer.h.*.self_attention.query_key_value": "3h h",
        "transformer.h.*.self_attention.dense": "h h",
        "transformer.h.*.post_attention_layernorm": "h",
        "transformer.h.*.mlp.dense_h_to_4h": "f h",
        "transformer.h.*.mlp.dense_4h_to_h": "h f",
        "transformer.ln_f": "h",
    }),
}  # fmt: skip
_OPT = {
    "model.decoder.embed_tokens.weight": "V h",
    "model.decoder.embed_positions.weight": "P+2 h",
    **_biased({
        "model.decoder.final_layer_norm": "h",
        "model.decoder.layers.*.self_attn.k_proj": "h h",
        "model.decoder.layers.*.self_attn.v_proj": "h h",
        "model.decoder.layers.*.self_attn.q_proj": "h h",
        "model.decoder.layers.*.self_attn.out_proj": "h h",
        "model.decoder.layers.*.self_attn_layer_norm": "h",
        "model.decoder.layers.*.fc1": "f h",
        "model.decoder.layers.*.fc2": "h f",
        "model.decoder.layers.*.final_layer_norm": "h",
    }),
}  # fmt: skip


def _encoder(body: str, transform: str, norm: str, bias: str) -> dict[str, str]:
    """BERT and RoBERTa differ in the names of the head only."""
    layer = f"{body}.encoder.layer.*"
    return {
        f"{body}.embeddings.word_embeddings.weight": "V h",
        f"{body}.embeddings.position_embeddings.weight": "P h",
        f"{body}.embeddings.token_type_embeddings.weight": "t h",
        bias: "V",
        **_biased({
            f"{body}.embeddings.LayerNorm": "h",
            f"{layer}.attention.self.query": "h h",
            f"{layer}.attention.self.key": "h h",
            f"{layer}.attention.self.value": "h h",
            f"{layer}.attention.output.dense": "h h",
            f"{layer}.attention.output.LayerNorm": "h",
            f"{layer}.intermediate.dense": "f h",
            f"{layer}.output.dense": "h f",
            f"{layer}.output.LayerNorm": "h",
            transform: "h h",
            norm: "h",
        }),
    }  # fmt: skip


_BERT = _encoder(
    "bert", "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"
)
_ROBERTA = _encoder("roberta", "lm_head.dense", "lm_head.layer_norm", "lm_head.bias")


def _llama_like(name: str, shapes: Mapping[str, str], *, tied: bool = False) -> Family:
    plain = {"attention_bias": False, "mlp_bias": False}
    return Family(name, shapes, _HEAD, tied, "rms", gated=True, plain=plain)


def _encoder_like(name: str, shapes: Mapping[str, str], decoder: str) -> Family:
    head = {f"{decoder}.weight": "V h", f"{decoder}.bias": "V"}
    return Family(name, shapes, head, True, "layer", gated=False, plain={"add_cross_attention": False})


FAMILIES = {
    "llama": _llama_like("LlamaForCausalLM", _LLAMA),
    "mistral": _llama_like("MistralForCausalLM", _LLAMA),
    "gemma": _llama_like("GemmaForCausalLM", _LLAMA, tied=True),
    "qwen2": _llama_like("Qwen2ForCausalLM", _QWEN2),
    "qwen3": _llama_like("Qwen3ForCausalLM", _QWEN3),
    "gpt2": Family(
        "GPT2LMHeadModel", _GPT2, _HEAD, True, "layer", gated=False,
        names={
            "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
            "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
        },
        plain={"add_cross_attention": False},
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM", _GPT_NEOX, _HEAD, False, "layer", gated=False, plain={"attention_bias": True}
    ),
    "bloom": Family(
        "BloomForCausalLM", _BLOOM, _HEAD, True, "layer", gated=False,
        names={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    ),
    "opt": Family(
        "OPTForCausalLM", _OPT, _HEAD, True, "layer", gated=False,
        names={"intermediate_size": "ffn_dim"},
        plain={
            "enable_bias": True, "layer_norm_elementwise_affine": True, "do_layer_norm_before": True,
            "_remove_final_layer_norm": False,
        },
    ),
    "bert": _encoder_like("BertForMaskedLM", _BERT, "cls.predictions.decoder"),
    "roberta": _encoder_like("RobertaForMaskedLM", _ROBERTA, "lm_head.decoder"),
    "xlm-roberta": _encoder_like("XLMRobertaForMaskedLM", _ROBERTA, "lm_head.decoder"),
}  # fmt: skip
