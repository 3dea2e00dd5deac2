"""How large a model is, from its config alone."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from clpds.errors import UserError
from clpds.flops import Flops, Parts, blocks, places, step_flops
from clpds.model_counts import require_counts
from clpds.planning.encoders import CLASSIFYING, MASKED
from clpds.planning.families import CAUSAL
from clpds.planning.family import Family, Norm

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from clpds.checkpoint.anatomy import Anatomy

Config = Mapping[str, Any]
"""The contents of a config.json."""
FAMILIES = CAUSAL | MASKED
LOOKED_UP = ("V h", "P h", "P+2 h", "t h", "n h")  # shapes of tables whose rows are looked up


@dataclass(frozen=True)
class Size:
    """What memory and time depend on."""

    kind: str
    """``model_type``."""
    parts: Parts
    """Its parameters."""
    vocabulary: int
    layers: int
    """Of the config; a TRILayer is one more."""
    heads: int
    groups: int
    """Key-value heads."""
    head_size: int
    feed_forward: int
    norm: Norm
    gated: bool
    activation: str
    """The config's name of the feed-forward layer's function."""
    dtype: str
    """Of the weights on disk."""
    exact: bool
    """Counted on the meta device, which took seconds, and not from the table."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.parts.shapes

    @property
    def parameters(self) -> int:
        return sum(self.elements(self.shapes))

    @property
    def hidden(self) -> int:
        return self.parts.hidden

    @property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        return max(self.elements(self.shapes))

    def trained(self, patterns: tuple[str, ...]) -> frozenset[str]:
        """Parameters whose name matches one of the shell patterns; UserError for one that matches none."""
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.shapes):
                raise UserError(
                    f"trainable: no parameter matches '{pattern}'; names look like {next(iter(self.shapes))}"
                )
        return frozenset(name for name in self.shapes if any(fnmatchcase(name, pattern) for pattern in patterns))

    def elements(self, names: Iterable[str]) -> list[int]:
        """How many numbers these parameters hold, each of them."""
        return [math.prod(self.shapes[name]) for name in names]

    def flops(self, patterns: tuple[str, ...], length: int) -> Flops:
        """The cost of a step in which the parameters of these patterns train, with blocks of ``length`` tokens."""
        return step_flops(self.parts, self.trained(patterns), length)

    def passed(self, patterns: tuple[str, ...]) -> int:
        """Layers that the gradient reaches, or passes through."""
        place = places(self.shapes, self.parts.words)
        lowest = min(place[name] for name in self.trained(patterns))
        return sum(layer >= lowest for layer in blocks(place.values()))

    def up_to(self, elements: int) -> int:
        """Parameters in tensors of at most so many elements."""
        return sum(count for count in self.elements(self.shapes) if count <= elements)


def size_of(config: Config) -> Size:
    """By the table where the family is in it, else counted on the meta device; UserError where neither can."""
    require_counts(config)
    return by_table(config) or _counted(config)


def family_of(config: Config) -> Family | None:
    """The table that is right for the config's type and class."""
    kind, classes = str(config.get("model_type")), config.get("architectures")
    if classes and kind in CLASSIFYING and classes[0] == CLASSIFYING[kind].model_class:
        return CLASSIFYING[kind]
    found = FAMILIES.get(kind)
    return found if found and (not classes or classes[0] == found.model_class) else None


def by_table(config: Config) -> Size | None:
    """None where the family is not in the table, a field is missing or a setting changes shapes."""
    family = family_of(config)
    if family is None or any(config.get(key, value) != value for key, value in family.plain.items()):
        return None

    def read(name: str, otherwise: int | None = None) -> int | None:
        value = config.get(family.names.get(name, name), config.get(name))
        return otherwise if value is None else value

    vocabulary, hidden = read("vocab_size"), read("hidden_size")
    layers, heads = read("num_hidden_layers"), read("num_attention_heads")
    if vocabulary is None or hidden is None or layers is None or heads is None:
        return None
    if config.get("word_embed_proj_dim", hidden) != hidden:
        return None
    # Classes differ in what they take for a missing number: only what all of the family share is filled in.
    head_size = read("head_dim", hidden // heads if config["model_type"] in ("llama", "mistral", "qwen2") else None)
    groups = read("num_key_value_heads", heads if config["model_type"] == "llama" else None)
    feed_forward = read("intermediate_size", 4 * hidden if config["model_type"] in ("gpt2", "bloom") else None)
    positions, token_types = read("max_position_embeddings"), read("type_vocab_size", 2)
    known = {
        "V": vocabulary, "h": hidden, "3h": 3 * hidden, "f": feed_forward, "P": positions,
        "P+2": None if positions is None else positions + 2, "t": token_types, "d": head_size,
        "q": None if head_size is None else heads * head_size,
        "k": None if head_size is None or groups is None else groups * head_size,
        "n": read("num_languages", 2), "c": len(config.get("id2label") or (0, 1)),
    }  # fmt: skip
    tied = bool(config.get("tie_word_embeddings", family.tied))
    shapes: dict[str, tuple[int, ...]] = {}
    for name, symbols in (dict(family.shapes) | ({} if tied else dict(family.head))).items():
        shape = [known[symbol] for symbol in symbols.split()]
        dimensions = tuple(number for number in shape if number is not None)
        if len(dimensions) < len(shape):
            return None
        for layer in range(layers) if "*" in name else [0]:
            shapes[name.replace("*", str(layer))] = dimensions
    tables = [name for name, symbols in family.shapes.items() if symbols in LOOKED_UP]
    words = next(name for name, symbols in family.shapes.items() if symbols == "V h")
    outputs = sum(symbols == "V h" for symbols in family.head.values()) if tied else 0
    return Size(
        kind=str(config["model_type"]), parts=Parts(shapes, tables, words, outputs, hidden),
        vocabulary=vocabulary, layers=layers, heads=heads,
        groups=groups or heads, head_size=head_size or hidden // heads, feed_forward=feed_forward or 4 * hidden,
        norm=family.norm, gated=family.gated,
        activation=str(config.get("activation_function", config.get("hidden_act"))),
        dtype=_dtype(config), exact=False,
    )  # fmt: skip


def _counted(config: Config) -> Size:
    """The model class on the meta device: exact for all that transformers knows, and seconds of imports."""
    from transformers import AutoConfig, PretrainedConfig

    from clpds.checkpoint.anatomy import anatomy, language_config

    try:
        plain = PretrainedConfig._decode_special_floats(dict(config))  # infinity, as transformers writes it
        full = language_config(AutoConfig.for_model(**plain))
        found = anatomy(full)
        return _size(full, found, _dtype(config))
    except UserError:
        raise
    except Exception as error:  # whatever a model class makes of values that do not fit together
        kind = config.get("model_type", "no model_type")
        raise UserError(
            f"config of {kind}: transformers builds no model of it: {' '.join(str(error).split())}"
        ) from error


def _size(full: "PretrainedConfig", found: "Anatomy", dtype: str) -> Size:
    from clpds.training.flops import model_parts

    text = full.get_text_config()
    heads, hidden = _most(text, "num_attention_heads"), _most(text, "hidden_size")
    layers = _most(text, "num_hidden_layers")
    if not heads or not hidden or not layers:
        raise UserError(
            f"config of {full.model_type}: what its layers keep for the backward pass is not known, since they are no "
            "attention of so many heads; train a few steps and look at the memory that they take"
        )
    parts = model_parts(found.model)
    return Size(
        kind=full.model_type, parts=parts, vocabulary=text.vocab_size, layers=layers, heads=heads,
        groups=_most(text, "num_key_value_heads") or heads,
        head_size=_most(text, "head_dim") or hidden // heads,
        feed_forward=_most(text, "intermediate_size") or 4 * hidden,
        norm="rms" if hasattr(text, "rms_norm_eps") else "layer",
        gated=any("gate_proj" in name for name in parts.shapes),
        activation=str(getattr(text, "activation_function", getattr(text, "hidden_act", None))),
        dtype=dtype, exact=True,
    )  # fmt: skip


def _most(text: Any, name: str) -> int | None:
    """A size of the config, the largest where layers differ in it (Gemma 3n and 4)."""
    try:
        value = getattr(text, name, None)
    except Exception:  # transformers refuses to give one value for all layers
        value = [getattr(layer, name, None) for layer in text.per_layer_config]
    if isinstance(value, list | tuple):
        value = max((one for one in value if one is not None), default=None)
    return value if value is None else int(value)


def _dtype(config: Config) -> str:
    return str(config.get("dtype", config.get("torch_dtype")) or "float32").removeprefix("torch.")
