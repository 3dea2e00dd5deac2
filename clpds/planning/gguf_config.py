"""The header of a GGUF file as a config."""

from pathlib import Path
from typing import Any

from clpds.errors import UserError
from clpds.gguf_header import not_whole, read_header

_FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def gguf_config(file: Path) -> dict[str, Any]:
    """What config.json would say of the model; UserError for a damaged file or an architecture not known here."""
    fields, tensors = read_header(file)
    try:
        family = fields["general.architecture"]
        if family not in _FAMILIES:
            known = ", ".join(_FAMILIES)
            raise UserError(
                f"{file} is of architecture '{family}', plan reads {known}; convert it first (clpds convert)"
            )
        return {
            "model_type": _FAMILIES[family],
            "vocab_size": fields["tokenizer.ggml.tokens"],
            "hidden_size": fields[f"{family}.embedding_length"],
            "num_hidden_layers": fields[f"{family}.block_count"],
            "num_attention_heads": fields[f"{family}.attention.head_count"],
            "num_key_value_heads": fields[f"{family}.attention.head_count_kv"],
            "head_dim": fields.get(f"{family}.attention.key_length"),
            "intermediate_size": fields[f"{family}.feed_forward_length"],
            "max_position_embeddings": fields[f"{family}.context_length"],
            "hidden_act": "silu",
            "tie_word_embeddings": "output.weight" not in tensors,
            "dtype": "float32",
        }
    except KeyError as error:
        raise not_whole(file, error) from error
