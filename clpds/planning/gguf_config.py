"""The header of a GGUF file as a config."""

from pathlib import Path
from typing import Any

from clpds.errors import UserError
from clpds.gguf_header import read_header

_FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def gguf_config(file: Path) -> dict[str, Any]:
    """What config.json would say of the model; UserError for a damaged file or an architecture not known here."""
    header = read_header(file)
    family = header.text("general.architecture")
    if family not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise UserError(f"{file} is of architecture '{family}', plan reads {known}; convert it first (clpds convert)")
    key_length = f"{family}.attention.key_length"
    return {
        "model_type": _FAMILIES[family],
        "vocab_size": header.length("tokenizer.ggml.tokens"),
        "hidden_size": header.number(f"{family}.embedding_length"),
        "num_hidden_layers": header.number(f"{family}.block_count"),
        "num_attention_heads": header.number(f"{family}.attention.head_count"),
        "num_key_value_heads": header.number(f"{family}.attention.head_count_kv"),
        "head_dim": header.number(key_length) if key_length in header.fields else None,
        "intermediate_size": header.number(f"{family}.feed_forward_length"),
        "max_position_embeddings": header.number(f"{family}.context_length"),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "dtype": "float32",
    }
