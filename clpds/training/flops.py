"""Model FLOPs of a step, forward and backward, in closed form (after Chowdhery et al. 2022, appendix B)."""

import re
from dataclasses import dataclass
from math import inf, prod

from torch import nn
from transformers import PreTrainedModel

HEAD = inf


@dataclass(frozen=True)
class Flops:
    """The cost of a step is linear in what goes in and what comes out."""

    per_token: float
    """Of a token that goes through the body."""
    per_prediction: float
    """Of a position that goes through the head, or the heads."""

    def of(self, tokens: int, predictions: int) -> float:
        """FLOPs of a step, on all ranks together."""
        return self.per_token * tokens + self.per_prediction * predictions


def step_flops(model: PreTrainedModel, sequence_length: int) -> Flops:
    """What a model costs, whatever part of it trains; a causal one that trains whole: 6 N + 12 L h s a token.

    A matrix costs 2 FLOPs an element and position forward; 2 more where the gradient goes on through it, to
    something trainable below it or in its layer; 2 more where it trains itself. The products of attention cost 4 h s
    forward and twice that where the gradient goes on. Looking up an embedding costs nothing; the head that it is tied
    to multiplies by it. So a frozen layer costs a third below everything that trains, and two thirds above a trained
    embedding. Recomputed activations do not count, so that the share of a device's peak measures progress.
    """
    text, words = model.config.get_text_config(), model.get_input_embeddings().weight
    places = _places(model)
    lowest = min((places[name] for name, one in model.named_parameters() if one.requires_grad), default=HEAD)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    token = prediction = 0.0
    for name, parameter in model.named_parameters():
        if id(parameter) in tables or len(_shape(parameter)) < 2:
            continue
        cost = 2 * prod(_shape(parameter)) * (1 + (places[name] >= lowest) + parameter.requires_grad)
        token, prediction = token + cost * (places[name] < HEAD), prediction + cost * (places[name] == HEAD)
    heads = [alias for alias in model.all_tied_weights_keys if model.get_parameter(alias) is words]
    prediction += len(heads) * 2 * prod(_shape(words)) * (2 + words.requires_grad)
    layers = text.num_hidden_layers
    passed = sum(layer >= lowest for layer in range(layers))
    return Flops(token + 4 * text.hidden_size * sequence_length * (layers + 2 * passed), prediction)


def _places(model: PreTrainedModel) -> dict[str, float]:
    """Where in the forward pass each parameter stands: -1 below the layers, a layer's number, or in the head."""
    prefix = f"{model.base_model_prefix}."
    places: dict[str, float] = {}
    above: float = -1
    for name, _ in model.named_parameters():
        number = re.search(r"\.(\d+)\.", name)
        if not name.startswith(prefix):
            places[name] = HEAD
        elif number:
            places[name] = int(number[1])
            above = HEAD  # what follows the layers, a last norm, is above them
        else:
            places[name] = above
    return places


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
