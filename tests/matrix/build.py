"""Tiny models of every type that transformers has: its own config class with the sizes made small by their names."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from tests.matrix.exceptions import EXCEPTIONS
from tests.matrix.inputs import ROWS, SPECIAL

Head = Literal["causal", "masked"]
AUTO: dict[Head, Any] = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}
POSITIONS, WINDOW, LAYERS, HEADS = 160, 16, 2, 4

# Name of a config's field, as a pattern -> what it becomes, where it is larger; the first that matches.
SIZES: tuple[tuple[str, Any], ...] = tuple(
    (re.compile(pattern), value)
    for pattern, value in (
        (r"(type|entity|shape|pronunciation)_vocab_size", 24),  # not of tokens
        (r"(.*_)?vocab_size(_per_layer_input)?", ROWS),
        (r"max_(2d_)?position_embeddings|n_positions|n_ctx|max_seq_len|model_max_length|context_length", POSITIONS),
        (r"max_(source|target)_positions|original_max_position_embeddings", POSITIONS),
        (r"hidden_size|d_model|n_embd|emb_dim|dim|embedding_dim|backbone_hidden_size|pooler_hidden_size", 64),
        (r"lru_width|attention_hidden_size|word_embed_proj_dim|prediction_head_size|true_hidden_size", 64),
        (r"embedding_size|(in|out)put_embedding_size|entity_emb_size|embed_dim|(shape|pronunciation)_embed_dim", 32),
        (r".*(intermediate|ffn|ff|feed_forward)(_\w*)?(size|dim)|dff|dim_ff|ffn_dim|d_inner|hidden_dim", 96),
        (r"(num_|n_)?(en|de)coder_layers|num_(en|de)coder_layers|num_hidden_layers|n_layers?|num_layers", LAYERS),
        (r"num_blocks|depth|num_self_attends_per_block|num_layers_per_stack", LAYERS),
        (r".*(num_|n_)(key_value|kv)_heads|num_query_groups", 2),
        (r"(.*_)?(num_|n_)?(attention_)?heads|n_head|.*_n_heads", HEADS),
        (r"qk_head_dim", 32),  # the parts with and without rotation together
        (r"(.*_)?head_(dim|size)|d_head|dim_head|kv_channels|attention_head_size|d_kv", 16),
        (r"num_experts_per_tok(en)?|moe_(k|topk)|num_experts_per_.*", 2),
        (r"(moe_)?(num_|n_)(local_|routed_)?experts|zero_expert_num", 4),
        (r"n_group|num_expert_group", 2),
        (r"topk_group|first_k_dense_replace|n_shared_experts|num_dense_layers", 1),
        (r"(kv|q|o)_lora_rank|.*_rank", 16),
        (r"sliding_window(_size)?|window_size|local_attention|attention_window(_size)?", WINDOW),
        (r"attention_chunk_size|keep_window_size|local_attention_window_len", WINDOW),
        (r".*chunk_size|.*chunk_length|(index_)?block_size", 16),
        (r"state_size|.*d_state|ssm_state_size|time_step_rank", 8),
        (r"index_topk", 8),
        (r"image_size", 32),
        (r"patch_size", 16),
        (r"num_mel_bins", 16),
        (r"num_(position_)?buckets|.*num_buckets", 16),
    )
)
STILL = re.compile(r".*(dropout|drop_prob|layerdrop|pdrop|jitter|noise)(_\w*)?")  # chance, which none may have
KEY_VALUE = ("num_key_value_heads", "num_kv_heads")
IDS = re.compile(r".*_token_(id|index)")
PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types", "block_types", "attn_layers")


@dataclass(frozen=True, order=True)
class Kind:
    """A type of model with one of its heads."""

    type: str
    head: Head
    name: str
    """Of the model class."""

    @property
    def key(self) -> str:
        return f"{self.type}-{self.head}"


def kinds(wanted: Iterable[str] = ()) -> list[Kind]:
    """All that the installed transformers has, or those of the types ``wanted``, by type."""
    wanted, found = set(wanted), []
    names: dict[Head, Any] = {"causal": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "masked": MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    for head, table in names.items():
        for kind, name in table.items():
            if (not wanted or kind in wanted or f"{kind}-{head}" in wanted) and hasattr(transformers, name):
                found.append(Kind(kind, head, name))
    return sorted(found)


def tiny_config(kind: Kind) -> PretrainedConfig:
    """The type's own defaults, small; raises whatever the config class does with sizes that do not fit together."""
    cls = CONFIG_MAPPING[kind.type]
    decides = {"is_decoder": True, "causal": True} if kind.head == "causal" else {"is_decoder": False}
    exception = EXCEPTIONS.get(kind.key, EXCEPTIONS.get(kind.type, {}))
    arguments = shrunk(cls, dict(exception))
    known = vars(_defaults(cls, exception))
    arguments |= {name: value for name, value in decides.items() if name in known and name not in arguments}
    return cls(**arguments)


def shrunk(cls: type[PretrainedConfig], exception: dict[str, Any]) -> dict[str, Any]:
    """Arguments with which the config class makes a small config, in its parts too."""
    default = _defaults(cls, exception)
    given: dict[str, Any] = {}
    free = ROWS - 1  # ids of images and the like are rows that no text has
    for name, value in vars(default).items():
        if isinstance(value, PretrainedConfig):
            given[name] = shrunk(type(value), dict(exception.pop(name, {})))
        elif name.startswith("_"):
            continue
        elif name in SPECIAL:
            given[name] = SPECIAL[name]
        elif IDS.fullmatch(name):
            if isinstance(value, int):
                given[name], free = (SPECIAL["bos_token_id"], free) if "start" in name else (free, free - 1)
        elif isinstance(value, float) and STILL.fullmatch(name):
            given[name] = 0.0
        elif isinstance(value, int) and not isinstance(value, bool):
            small = next((small for pattern, small in SIZES if pattern.fullmatch(name)), None)
            if name in KEY_VALUE and value == vars(default).get("num_attention_heads"):
                small = HEADS
            if small is not None and (small < value or small == ROWS):
                given[name] = small
        elif name == "head_dim" and value is None:
            given[name] = 16
    given |= _layers(default)
    return given | exception


def _layers(default: PretrainedConfig) -> dict[str, Any]:
    """Every kind of layer that the default has, once, and two layers at least."""
    lists = {name: list(dict.fromkeys(held)) for name in PER_LAYER if (held := vars(default).get(name))}
    if not lists:
        return {}
    count = max(LAYERS, *map(len, lists.values()))
    found: dict[str, Any] = {name: [held[min(i, len(held) - 1)] for i in range(count)] for name, held in lists.items()}
    return found | ({"num_hidden_layers": count} if "num_hidden_layers" in vars(default) else {})


def _defaults(cls: type[PretrainedConfig], exception: dict[str, Any]) -> PretrainedConfig:
    try:
        return cls()
    except Exception:  # some defaults are not allowed by the class itself
        return cls(**exception)


def tiny_model(kind: Kind, seed: int = 0) -> PreTrainedModel:
    """A model with random weights in float32, norms and biases included, so that no mistake hides behind zeros."""
    config = tiny_config(kind)
    cls = AUTO[kind.head]._model_mapping[type(config)]
    if config.sub_configs and cls.config_class is not type(config):
        cls = AutoModelForImageTextToText._model_mapping[type(config)]  # which the Auto class opens as its text model
    torch.manual_seed(seed)
    model: PreTrainedModel = cls(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.tie_weights()
    return model.float().eval()
