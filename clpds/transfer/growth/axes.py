"""Which axis of which tensor means what, a table for each family of models.

A rule is written as the map that the tensor is: ``q <- h`` has the shape (q, h), as ``nn.Linear`` keeps
it, ``h -> q`` the same map the other way round, as GPT-2's Conv1D and every embedding keep it. What stands
at the arrow's point is written by the tensor, what stands at its tail is read. One symbol is a bias.

Symbols: h the residual stream; q query heads, k key-value heads (times the head size); f feed-forward
neurons; e the width of the embedding (h but for OPT with projections); V vocabulary, P positions, t token
types, d one head, which never change. ``3q`` is the query, key and value block one after the other, ``q3``
the three of each head side by side. ``gain`` and ``shift`` are a norm's two vectors over h.

A table may name tensors that a config leaves out (biases); a tensor without a rule is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PretrainedConfig

from clpds.errors import UserError


@dataclass(frozen=True)
class Family:
    """What growth has to know of one ``model_type``."""

    rules: Mapping[str, str]
    """Tensor name, ``*`` for the number of a layer, to its rule."""
    final_norm: str
    """The norm whose output the head reads; of the last layer where the layers have it."""
    eps: str | None
    """The config's key of the norms' epsilon; None where it is fixed or also that of norms over a head (Qwen3)."""
    ffn: str | None = "intermediate_size"
    """The config's key of the feed-forward size; None where it is always four times the width."""
    free_heads: bool = False
    """Whether the config can keep the size of a head whatever the width."""
    rms: bool = False
    """RMSNorm, which leaves the mean alone; LayerNorm otherwise."""
    normed_stream: bool = False
    """Whether a LayerNorm's output is itself the residual stream, so that a row's mean is not kept."""
    post_norms: tuple[str, str] | None = None
    """First and last norm of a layer that normalises after adding (post-LN)."""
    alibi: bool = False
    """Whether a head's slope depends on its index and on the number of heads."""
    plain: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the config with the value that the table is right for."""


def _linear(rules: Mapping[str, str]) -> dict[str, str]:
    """Modules with a weight, and a bias over what they write."""
    found = {}
    for name, rule in rules.items():
        left, arrow, right = rule.partition(" -> ")
        found[f"{name}.weight"] = rule
        found[f"{name}.bias"] = right if arrow else left.partition(" <- ")[0]
    return found


def _norms(*names: str) -> dict[str, str]:
    return {f"{name}.{part}": rule for name in names for part, rule in (("weight", "gain"), ("bias", "shift"))}


_LLAMA = Family(
    rules={
        "model.embed_tokens.weight": "V -> e",
        **_linear({
            "model.layers.*.self_attn.q_proj": "q <- h",
            "model.layers.*.self_attn.k_proj": "k <- h",
            "model.layers.*.self_attn.v_proj": "k <- h",
            "model.layers.*.self_attn.o_proj": "h <- q",
            "model.layers.*.mlp.gate_proj": "f <- h",
            "model.layers.*.mlp.up_proj": "f <- h",
            "model.layers.*.mlp.down_proj": "h <- f",
        }),
        **_norms("model.layers.*.input_layernorm", "model.layers.*.post_attention_layernorm", "model.norm"),
        "lm_head.weight": "V <- e",
    },
    final_norm="model.norm",
    eps="rms_norm_eps",
    free_heads=True,
    rms=True,
)  # fmt: skip

_QWEN3 = replace(
    _LLAMA,
    rules={
        **_LLAMA.rules,
        "model.layers.*.self_attn.q_norm.weight": "d",
        "model.layers.*.self_attn.k_norm.weight": "d",
    },
    eps=None,
)

_GPT2 = Family(
    rules={
        "transformer.wte.weight": "V -> e",
        "transformer.wpe.weight": "P -> h",
        **_linear({
            "transformer.h.*.attn.c_attn": "h -> 3q",
            "transformer.h.*.attn.c_proj": "q -> h",
            "transformer.h.*.mlp.c_fc": "h -> f",
            "transformer.h.*.mlp.c_proj": "f -> h",
        }),
        **_norms("transformer.h.*.ln_1", "transformer.h.*.ln_2", "transformer.ln_f"),
        "lm_head.weight": "V <- e",
    },
    final_norm="transformer.ln_f",
    eps="layer_norm_epsilon",
    ffn="n_inner",
    plain={"scale_attn_by_inverse_layer_idx": False},
)  # fmt: skip

_GPT_NEOX = Family(
    rules={
        "gpt_neox.embed_in.weight": "V -> e",
        **_linear({
            "gpt_neox.layers.*.attention.query_key_value": "q3 <- h",
            "gpt_neox.layers.*.attention.dense": "h <- q",
            "gpt_neox.layers.*.mlp.dense_h_to_4h": "f <- h",
            "gpt_neox.layers.*.mlp.dense_4h_to_h": "h <- f",
        }),
        **_norms(
            "gpt_neox.layers.*.input_layernorm",
            "gpt_neox.layers.*.post_attention_layernorm",
            "gpt_neox.final_layer_norm",
        ),
        "lm_head.weight": "V <- e",
        "embed_out.weight": "V <- e",
    },
    final_norm="gpt_neox.final_layer_norm",
    eps="layer_norm_eps",
)  # fmt: skip

_BLOOM = Family(
    rules={
        "transformer.word_embeddings.weight": "V -> e",
        **_norms("transformer.word_embeddings_layernorm"),
        **_linear({
            "transformer.h.*.self_attention.query_key_value": "q3 <- h",
            "transformer.h.*.self_attention.dense": "h <- q",
            "transformer.h.*.mlp.dense_h_to_4h": "f <- h",
            "transformer.h.*.mlp.dense_4h_to_h": "h <- f",
        }),
        **_norms(
            "transformer.h.*.input_layernorm", "transformer.h.*.post_attention_layernorm", "transformer.ln_f"
        ),
        "lm_head.weight": "V <- e",
    },
    final_norm="transformer.ln_f",
    eps="layer_norm_epsilon",
    ffn=None,
    normed_stream=True,
    alibi=True,
    plain={"apply_residual_connection_post_layernorm": False},
)  # fmt: skip

_OPT = Family(
    rules={
        "model.decoder.embed_tokens.weight": "V -> e",
        "model.decoder.project_in.weight": "h <- e",
        "model.decoder.embed_positions.weight": "P -> h",
        **_linear({
            "model.decoder.layers.*.self_attn.q_proj": "q <- h",
            "model.decoder.layers.*.self_attn.k_proj": "q <- h",
            "model.decoder.layers.*.self_attn.v_proj": "q <- h",
            "model.decoder.layers.*.self_attn.out_proj": "h <- q",
            "model.decoder.layers.*.fc1": "f <- h",
            "model.decoder.layers.*.fc2": "h <- f",
        }),
        **_norms(
            "model.decoder.layers.*.self_attn_layer_norm",
            "model.decoder.layers.*.final_layer_norm",
            "model.decoder.final_layer_norm",
        ),
        "model.decoder.project_out.weight": "e <- h",
        "lm_head.weight": "V <- e",
    },
    final_norm="model.decoder.final_layer_norm",
    eps=None,
    ffn="ffn_dim",
    plain={"_remove_final_layer_norm": False, "layer_norm_elementwise_affine": True},
)  # fmt: skip
_OPT_NORMS = "model.decoder.layers.*.self_attn_layer_norm", "model.decoder.layers.*.final_layer_norm"


def _encoder(body: str, head: str, head_norm: str, decoder: str, bias: str) -> Family:
    """BERT and RoBERTa, which differ in the names of the head only."""
    layer = f"{body}.encoder.layer.*"
    post_norms = f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"
    return Family(
        rules={
            f"{body}.embeddings.word_embeddings.weight": "V -> e",
            f"{body}.embeddings.position_embeddings.weight": "P -> h",
            f"{body}.embeddings.token_type_embeddings.weight": "t -> h",
            **_norms(f"{body}.embeddings.LayerNorm", *post_norms, head_norm),
            **_linear({
                f"{layer}.attention.self.query": "q <- h",
                f"{layer}.attention.self.key": "q <- h",
                f"{layer}.attention.self.value": "q <- h",
                f"{layer}.attention.output.dense": "h <- q",
                f"{layer}.intermediate.dense": "f <- h",
                f"{layer}.output.dense": "h <- f",
                head: "h <- h",
                decoder: "V <- e",
            }),
            bias: "V",
        },
        final_norm=head_norm,
        eps="layer_norm_eps",
        normed_stream=True,
        post_norms=post_norms,
        plain={"is_decoder": False, "add_cross_attention": False},
    )  # fmt: skip


_BERT = _encoder(
    "bert",
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.decoder",
    "cls.predictions.bias",
)
_ROBERTA = _encoder("roberta", "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias")

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "qwen2"), _LLAMA),
    "qwen3": _QWEN3,
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "bloom": _BLOOM,
    "opt": _OPT,
    "bert": _BERT,
    **dict.fromkeys(("roberta", "xlm-roberta"), _ROBERTA),
}


def family(config: PretrainedConfig) -> Family:
    """The table for this config; UserError that names a type or a setting that has none."""
    found = FAMILIES.get(config.model_type)
    if found is None:
        raise UserError(f"no growth for models of type '{config.model_type}'; there is for {', '.join(FAMILIES)}")
    for key, value in found.plain.items():
        if getattr(config, key, value) != value:
            raise UserError(f"no growth for {config.model_type} with {key} {getattr(config, key)} (only {value})")
    if config.model_type == "opt" and not config.do_layer_norm_before:  # OPT-350m
        return replace(found, normed_stream=True, post_norms=_OPT_NORMS, final_norm=_OPT_NORMS[1])
    return found
