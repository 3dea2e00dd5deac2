"""Configs of the models that are trained from fresh weights, as files that a recipe names."""

import json
from pathlib import Path
from typing import Any

from clpds.output import write_text


def encoder_config(folder: Path, *, width: int, layers: int, take: int | None = None) -> Path:
    """A BERT; with ``take`` one that has a second head above so many layers."""
    config: dict[str, Any] = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "max_position_embeddings": 128,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.05,
        "tie_word_embeddings": True,
        "vocab_size": 1,  # the data's tokenizer says how many
    }
    if take is not None:
        config |= {"architectures": ["BertMiniJointForMaskedLM"], "model_type": "bert-minijoint", "mini_layers": take}
    return _write(folder / "encoder.json", config)


def decoder_config(folder: Path, name: str, *, width: int, layers: int) -> Path:
    """A Llama with tied embeddings."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": width // 32,
        "max_position_embeddings": 1024,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "vocab_size": 1,
    }
    return _write(folder / f"{name}.json", config)


def _write(out: Path, config: dict[str, Any]) -> Path:
    text = json.dumps(config, indent=2) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.is_file() or out.read_text(encoding="utf-8") != text:
        write_text(out, text)
    return out
