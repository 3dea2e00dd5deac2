"""How far the grown model's logits are from the source's: both run, on the same tokens."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from clpds.checkpoint import Checkpoint, LazyTensor, anatomy
from clpds.checkpoint.anatomy import model_class
from clpds.progress import progress
from clpds.transfer.growth.grow import grow
from clpds.transfer.growth.plan import Growth

BATCH = (2, 64)  # random tokens
WORDS = 1024  # the first rows of the vocabulary: no rule of growth touches that axis
ROOM = 5 * 10**8  # parameters of the grown model, 2 GB in float32; the source is gone by the time it is built


@dataclass(frozen=True)
class Difference:
    """Between the logits of two models, in float32."""

    relative: float
    """The largest difference over the largest absolute logit."""
    layers: int
    """The source's layers that took part: all, or the first few of a model too large to be held."""


def measure(source: Checkpoint, growth: Growth, room: int = ROOM) -> Difference | None:
    """Run source and grown model one after the other on their first words; of a large model its first layers.

    All layers grow by the same rules, so that the first ones tell of the rest. One may have three times ``room``;
    None if it has more.
    """
    layers = source.config.num_hidden_layers
    models = _first(layers, source, growth)
    while _size(models[1]) > room and layers > 1:
        layers = (layers + 1) // 2
        models = _first(layers, source, growth)
    if _size(models[1]) > 3 * room:
        return None
    words = models[0].config.vocab_size
    tokens = torch.randint(words, BATCH, generator=torch.Generator().manual_seed(growth.seed))
    with progress("comparing logits (tensors)", sum(len(model.tensors) for model in models)) as advance:
        before, after = (_logits(model, tokens, advance) for model in models)
    return Difference(float((after - before).abs().max() / before.abs().max()), layers)


def _size(checkpoint: Checkpoint) -> int:
    return sum(tensor.numel for tensor in checkpoint.tensors.values())


def _first(layers: int, source: Checkpoint, growth: Growth) -> tuple[Checkpoint, Checkpoint]:
    """The source's first ``layers`` and words, and these grown; of fewer than all, by one layer if any are added."""
    config = copy.deepcopy(source.config)
    config.num_hidden_layers = layers
    config.vocab_size = min(WORDS, config.vocab_size)
    if (config.pad_token_id or 0) >= config.vocab_size:
        config.pad_token_id = None
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    numbers = {name: re.search(r"\.(\d+)\.", name) for name in source.tensors}
    beyond = tuple(name for name, number in numbers.items() if number and int(number[1]) >= layers)
    deeper = growth.depth is not None and growth.depth > source.config.num_hidden_layers
    words = {name: _rows(source.tensors[name], config.vocab_size) for name in anatomy(source.config).vocabulary}
    cut = source.derive(dropped=beyond, replaced=words, config=config)
    whole = layers == source.config.num_hidden_layers
    return cut, grow(cut, growth if whole else replace(growth, depth=layers + 1 if deeper else None))


def _rows(whole: LazyTensor, count: int) -> LazyTensor:
    shape = (count, *whole.shape[1:])
    return LazyTensor(shape, whole.dtype, lambda: whole.flat(0, prod(shape)).reshape(shape), origin=whole.origin)


@torch.no_grad()
def _logits(checkpoint: Checkpoint, tokens: Tensor, advance: Callable[[float], None]) -> Tensor:
    """(batch, length, V), float32; the model is gone when this returns."""
    config = copy.deepcopy(checkpoint.config)
    with no_init_weights():
        model = model_class(config)._from_config(config, dtype=torch.float32)
    model.tie_weights()
    state = model.state_dict()
    for name, tensor in checkpoint.tensors.items():
        state[name].copy_(tensor.load())
        advance(1)
    logits: Tensor = model.eval()(tokens).logits
    return logits
