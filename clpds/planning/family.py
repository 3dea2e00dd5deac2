"""How a table of one family's parameters is written.

Symbols of a shape: V vocabulary, h hidden, f feed-forward, q heads x head size, k key-value heads x
head size, d head size, P positions, t token types, n languages, c classes. ``*`` in a name stands for the number of a
layer. Names stand in the model's order.
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
    """The output matrix, which is there unless tied to the input embedding, and what is tied with it; two of them
    with a middle head, none with a classifier."""
    tied: bool
    """Whether it is, where the config does not say."""
    norm: Norm
    gated: bool
    """Whether the feed-forward layer has a gate."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What this family's config calls hidden_size and so on."""
    plain: Mapping[str, Any] = field(default_factory=dict)
    """Settings that change shapes, with the value that the table is right for."""
    defaults: Mapping[str, int | None] = field(default_factory=dict)
    """Special ids, unless None, that the config's class takes where config.json names none; a None for positions
    where a family counts none."""


def biased(modules: Mapping[str, str]) -> dict[str, str]:
    """Modules whose bias is as long as the first dimension of their weight."""
    shapes = {}
    for name, shape in modules.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape.split()[0]
    return shapes


def special(**ids: int) -> dict[str, int | None]:
    """``bos=1`` as a config spells it."""
    return {f"{role}_token_id": number for role, number in ids.items()}
