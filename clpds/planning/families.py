"""Names and shapes of the usual causal families' parameters, as transformers has them.

A table, so that a login node need not import torch. ``tests/planning/test_size.py`` compares every
family with the model class on the meta device, name by name.

``family.py`` has the symbols of a shape, ``encoders.py`` BERT and its kin.
"""

from collections.abc import Mapping

from clpds.planning.family import Family, biased, special

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
    **biased({"transformer.h.*.ln_1": "h", "transformer.h.*.ln_2": "h", "transformer.ln_f": "h"}),
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
    **biased({
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
    **biased({
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
    **biased({
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


def _llama_like(name: str, shapes: Mapping[str, str], *, tied: bool = False, **ids: int) -> Family:
    plain = {"attention_bias": False, "mlp_bias": False}
    return Family(name, shapes, _HEAD, tied, "rms", gated=True, plain=plain, defaults=special(**ids))


CAUSAL = {
    "llama": _llama_like("LlamaForCausalLM", _LLAMA, bos=1, eos=2),
    "mistral": _llama_like("MistralForCausalLM", _LLAMA, bos=1, eos=2),
    "gemma": _llama_like("GemmaForCausalLM", _LLAMA, tied=True, bos=2, eos=1, pad=0),
    "qwen2": _llama_like("Qwen2ForCausalLM", _QWEN2),
    "qwen3": _llama_like("Qwen3ForCausalLM", _QWEN3),
    "gpt2": Family(
        "GPT2LMHeadModel", _GPT2, _HEAD, True, "layer", gated=False,
        names={
            "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
            "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
        },
        plain={"add_cross_attention": False}, defaults=special(bos=50256, eos=50256),
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM", _GPT_NEOX, _HEAD, False, "layer", gated=False,
        plain={"attention_bias": True}, defaults=special(bos=0, eos=2),
    ),
    "bloom": Family(
        "BloomForCausalLM", _BLOOM, _HEAD, True, "layer", gated=False,
        names={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
        defaults=special(bos=1, eos=2) | {"max_position_embeddings": None},
    ),
    "opt": Family(
        "OPTForCausalLM", _OPT, _HEAD, True, "layer", gated=False,
        names={"intermediate_size": "ffn_dim"},
        plain={
            "enable_bias": True, "layer_norm_elementwise_affine": True, "do_layer_norm_before": True,
            "_remove_final_layer_norm": False,
        },
        defaults=special(bos=2, eos=2, pad=1),
    ),
}  # fmt: skip
