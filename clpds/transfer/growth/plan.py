"""From the sizes asked for to every axis, every layer and the config of the grown model; no weight is read."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import log2

from transformers import PretrainedConfig

from clpds.errors import UserError
from clpds.recipe import GrowthFill
from clpds.transfer.growth.axes import Family, family
from clpds.transfer.growth.expand import Axis, Fill

SMALL = 0.01  # noise of the fill "small", where none is given


@dataclass(frozen=True)
class Growth:
    """What is asked for; None leaves a size as it follows from the others."""

    width: int | None = None
    heads: int | None = None
    feed_forward: int | None = None
    depth: int | None = None
    fill: GrowthFill | None = None
    noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """What growing does to a model of one config."""

    family: Family
    config: PretrainedConfig
    """Of the grown model."""
    axes: Mapping[str, Axis]
    """By their symbol in the rules; those that do not grow are left out."""
    layers: tuple[tuple[int, bool], ...]
    """For each layer of the grown model: the source's layer it is made from, and whether it is a new one."""
    fill: GrowthFill
    noise: float
    gain: float = 1.0
    """Factor of every norm's gain."""
    written: float = 1.0
    """Factor of everything that is written to the stream."""
    final: float = 1.0
    """Factor of the last norm's output."""


def plan(config: PretrainedConfig, growth: Growth) -> Plan:
    """Check that the sizes fit together and choose the fill that is exact; UserError names what does not fit."""
    table, old = family(config), sizes(config)
    width = growth.width or old["width"]
    heads = growth.heads or _in_proportion("heads", old, width)
    feed_forward = growth.feed_forward or round(old["feed-forward"] * width / old["width"])
    depth = growth.depth or old["layers"]
    new = {"width": width, "heads": heads, "feed-forward": feed_forward, "layers": depth}
    for name, size in new.items():
        if size < old[name]:
            raise UserError(f"cannot grow {name} from {old[name]} to {size}: growth does not shrink")
    if all(size == old[name] for name, size in new.items()):
        raise UserError("nothing grows: every size asked for is the source's own")
    fill = growth.fill or ("copy" if table.normed_stream and width > old["width"] else "zero")
    new["key-value heads"] = _key_value_heads(old, heads)
    _require_exact(config.model_type, table, old, new, fill)

    grown = _new_config(config, table, old, new)
    axes = _axes(config, table, old, new, fill)
    layers = _layers(old["layers"], depth)
    if getattr(config, "layer_types", None):
        grown.layer_types = [config.layer_types[layer] for layer, _ in layers]
    noise = growth.noise or (SMALL if fill == "small" else 0.0)
    times = width / old["width"]
    tied = config.tie_word_embeddings and "e" in axes
    if fill == "copy":
        return Plan(table, grown, axes, layers, fill, noise, final=1 / times if tied else 1.0)
    gain = times**-0.5  # the mean square runs over more coordinates, none of which adds to it
    if table.eps is None:  # the stream gets larger instead, and with it a tied head
        written = times**0.5
        return Plan(table, grown, axes, layers, fill, noise, gain, written, final=1 / written if tied else 1.0)
    setattr(grown, table.eps, getattr(config, table.eps) / times)
    return Plan(table, grown, axes, layers, fill, noise, gain)


def sizes(config: PretrainedConfig) -> dict[str, int]:
    """Width, heads, key-value heads, feed-forward and layers of a config that has a table."""
    key = family(config).ffn
    return {
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "key-value heads": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        "feed-forward": (getattr(config, key) if key else None) or 4 * config.hidden_size,
        "layers": config.num_hidden_layers,
    }


def head_size(config: PretrainedConfig) -> int:
    """Elements of a head, which growth keeps: scores are divided by its root, rotary angles depend on it."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _in_proportion(name: str, old: Mapping[str, int], width: int) -> int:
    number, rest = divmod(old[name] * width, old["width"])
    if rest:
        raise UserError(
            f"width {width} is {width / old['width']:.4g} times {old['width']}, which makes no whole number of "
            f"heads of {old[name]}; choose another width or give the heads"
        )
    return number


def _key_value_heads(old: Mapping[str, int], heads: int) -> int:
    group = old["heads"] // old["key-value heads"]
    if heads % group:
        raise UserError(f"{heads} heads do not divide into groups of {group} that share keys, as the source's do")
    return heads // group


def _require_exact(kind: str, table: Family, old: Mapping[str, int], new: Mapping[str, int], fill: GrowthFill) -> None:
    """What the fill can do with this architecture."""
    wider = new["width"] > old["width"]
    if wider and table.normed_stream and fill != "copy":
        raise UserError(
            f"fill {fill} cannot widen {kind}: a LayerNorm's output is its residual stream, and would change with "
            "any other width; use fill copy"
        )
    for name in ("width", "heads", "feed-forward"):
        if fill == "copy" and new[name] % old[name] and not (name == "heads" and table.alibi):
            advice = "; use fill zero" if not table.normed_stream else ""
            raise UserError(f"fill copy needs a multiple of the source's {name} {old[name]}, not {new[name]}{advice}")


def _new_config(
    config: PretrainedConfig, table: Family, old: Mapping[str, int], new: Mapping[str, int]
) -> PretrainedConfig:
    grown = copy.deepcopy(config)
    grown.hidden_size = new["width"]
    grown.num_attention_heads = new["heads"]
    grown.num_hidden_layers = new["layers"]
    if getattr(config, "num_key_value_heads", None):
        grown.num_key_value_heads = new["key-value heads"]
    if getattr(config, "word_embed_proj_dim", None) == old["width"]:
        grown.word_embed_proj_dim = new["width"]
    _keep_head_size(config, grown, table)
    if table.ffn:
        setattr(grown, table.ffn, new["feed-forward"])
    elif new["feed-forward"] != 4 * new["width"]:
        raise UserError(f"the feed-forward size of {config.model_type} is always four times the width")
    return grown


def _keep_head_size(config: PretrainedConfig, grown: PretrainedConfig, table: Family) -> None:
    size = head_size(config)
    if grown.num_attention_heads * size != grown.hidden_size and not table.free_heads:
        raise UserError(
            f"{grown.num_attention_heads} heads of {size} do not make a width of {grown.hidden_size}, as "
            f"{config.model_type} needs; a head keeps its size, so give {grown.hidden_size / size:.4g} heads"
        )
    if table.free_heads:
        grown.head_dim = size


def _axes(
    config: PretrainedConfig, table: Family, old: Mapping[str, int], new: Mapping[str, int], fill: GrowthFill
) -> dict[str, Axis]:
    outer: Fill = "copy" if fill == "copy" else "zero" if table.rms else "mean"
    inner: Fill = "copy" if fill == "copy" else "unread"
    stream = Axis(old["width"], new["width"], outer)
    own_width = getattr(config, "word_embed_proj_dim", old["width"]) != old["width"]
    size = head_size(config)
    found = {
        "h": stream,
        "q": Axis(old["heads"], new["heads"], inner, size),
        "k": Axis(old["key-value heads"], new["key-value heads"], inner, size),
        "f": Axis(old["feed-forward"], new["feed-forward"], inner),
    }
    if not own_width:
        found["e"] = stream
    if table.alibi:  # no two heads have one slope, so that none can be a copy
        places = _places(old["heads"], new["heads"])
        found["q"] = Axis(old["heads"], new["heads"], "unread", size, places=places)
    return {symbol: axis for symbol, axis in found.items() if axis.new > axis.old}


def _places(old: int, new: int) -> tuple[int, ...]:
    """Where ALiBi has the slopes of ``old`` heads among those of ``new``: each lot holds every smaller one."""
    exponents = _alibi(new)
    return tuple(exponents.index(exponent) for exponent in _alibi(old))


def _alibi(heads: int) -> list[Fraction]:
    """A head's slope is 2 to minus this (Press et al. 2022): between powers of two, every other one of the next."""
    power = 2 ** int(log2(heads))
    first = [Fraction(8 * (head + 1), power) for head in range(power)]
    return first + [Fraction(8 * (2 * head + 1), 2 * power) for head in range(heads - power)]


def _layers(old: int, new: int) -> tuple[tuple[int, bool], ...]:
    """New layers spread evenly, each above the layer that it is made from (as in LLaMA Pro, arXiv 2401.02415)."""
    extra = new - old
    above = [(index + 1) * old // extra - 1 if extra <= old else index * old // extra for index in range(extra)]
    order = [(layer, False) for layer in range(old)] + [(layer, True) for layer in above]
    return tuple(sorted(order))
