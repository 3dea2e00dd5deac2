"""A larger model as a script makes it: load, copy into the corners of a larger one, save: the peer of init_grow."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class Padded:
    """Write ``out``: the source with zeros around it, up to ``width``."""

    source: Path
    out: Path
    width: int


@torch.no_grad()
def main(options: Padded) -> None:
    small = AutoModelForCausalLM.from_pretrained(options.source)
    config = copy.deepcopy(small.config)
    for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        setattr(config, key, getattr(config, key) * options.width // small.config.hidden_size)
    large = AutoModelForCausalLM.from_config(config, dtype=small.dtype)
    before = dict(small.named_parameters())
    for name, parameter in large.named_parameters():
        parameter.zero_()
        parameter[tuple(slice(length) for length in before[name].shape)] = before[name]
    large.save_pretrained(options.out)


if __name__ == "__main__":
    main(tyro.cli(Padded))
