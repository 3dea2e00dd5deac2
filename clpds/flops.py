"""Model FLOPs of a step, forward and backward, in closed form (after Chowdhery et al. 2022, appendix B).

From names and shapes alone: `clpds plan` foretells what the trainer reports.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf, prod

BELOW, HEAD = -1.0, inf


@dataclass(frozen=True)
class Flops:
    """The cost of a step is linear in what goes in and what comes out."""

    per_token: float
    """Of a token that goes through the body."""
    per_prediction: float
    """Of a position that goes through the head, or the heads."""

    def of(self, tokens: float, predictions: float) -> float:
        """FLOPs of a step, on all ranks together."""
        return self.per_token * tokens + self.per_prediction * predictions


@dataclass(frozen=True)
class Parts:
    """What of a model decides its cost."""

    shapes: Mapping[str, tuple[int, ...]]
    """Every parameter once, a tied output matrix not again; in the model's order."""
    tables: Collection[str]
    """Those in which rows are looked up, which multiply nothing."""
    words: str
    """The input embedding, one of these tables."""
    outputs: int
    """How many heads it is the output matrix of: 0 where the head has its own, 2 with a middle head."""
    hidden: int
    met: Mapping[str, float] = field(default_factory=dict)
    """The share of a parameter that one token meets: k of E experts; all others it meets whole."""


def step_flops(parts: Parts, trained: Collection[str], length: int) -> Flops:
    """The cost with blocks of ``length`` tokens where the parameters ``trained`` train.

    A causal model that trains whole costs 6 N + 12 L h s a token. A matrix costs 2 FLOPs an element and position
    forward; 2 more where the gradient goes on through it, to something trainable below it or in its layer; 2 more
    where it trains itself. The products of attention cost 4 h s forward and twice that where the gradient goes on.
    So a frozen layer costs a third below everything that trains, and two thirds above a trained embedding.
    In a mixture of experts, counts those that a token is sent to and those that all tokens share.
    Recomputed activations do not count, so that the share of a device's peak measures progress.
    """
    place = places(parts.shapes, parts.words)
    lowest = min((place[name] for name in trained), default=HEAD)
    token = prediction = 0.0
    for name, shape in parts.shapes.items():
        if name in parts.tables or len(shape) < 2:
            continue
        cost = 2 * prod(shape) * parts.met.get(name, 1.0) * (1 + (place[name] >= lowest) + (name in trained))
        token, prediction = token + cost * (place[name] < HEAD), prediction + cost * (place[name] == HEAD)
    prediction += parts.outputs * 2 * prod(parts.shapes[parts.words]) * (2 + (parts.words in trained))
    layers = blocks(place.values())
    passed = sum(layer >= lowest for layer in layers)
    return Flops(token + 4 * parts.hidden * length * (len(layers) + 2 * passed), prediction)


def places(names: Iterable[str], words: str) -> dict[str, float]:
    """Where in the forward pass each parameter stands: below the layers, a layer's number, or in the head.

    ``names`` come in the model's order, and the body's begin as that of the input embedding ``words``. A TRILayer
    comes behind the layers in that order, and stands in their middle.
    """
    prefix = f"{words.partition('.')[0]}."
    found: dict[str, float] = {}
    above, last = BELOW, 0
    for name in names:
        number = re.search(r"\.(\d+)\.", name)
        if not name.startswith(prefix):
            found[name] = HEAD
        elif number:
            found[name] = last = int(number[1])
            above = HEAD  # what follows the layers, a last norm, is above them
        else:
            found[name] = last / 2 if ".trilayer." in name else above
    return found


def blocks(places: Iterable[float]) -> set[float]:
    """The layers among these places."""
    return {place for place in places if BELOW < place < HEAD}
