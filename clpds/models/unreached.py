"""Weights that no loss reaches: a vision tower beside text, cross-attention without an encoder, an indexer.

ZeRO-3 hands AdamW a gradient of zeros for them, and weight decay then takes them away, 1 - lr x decay a step.
"""

import re

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from clpds.checkpoint.anatomy import own_parameters
from clpds.models.encoder import has_languages
from clpds.models.layout import bare
from clpds.models.trial import WINDOW, small_copy, some_ids, without_cache

EXPERT = re.compile(r"(experts?\.)\d+\.")  # one that no token was sent to is reached by others


def unreached(model: nn.Module) -> list[str]:
    """Parameters to which no path leads back from the logits for a text, by a backward pass of a small copy.

    Empty for TRILayer models, whose objectives take different paths, and where no small copy works.
    """
    inner = bare(model)
    copy = None if has_languages(inner) else small_copy(inner, torch.device("cpu"))
    if copy is None:
        return []
    output = copy(input_ids=some_ids(copy, 3 * WINDOW)[None], **without_cache(copy))
    torch.stack(_logits(output)).sum().backward()
    seen = {_kind(name) for name, parameter in own_parameters(copy).items() if parameter.grad is not None}
    known = {_kind(name) for name in own_parameters(copy)}
    return [name for name in own_parameters(inner) if _kind(name) in known - seen]


def freeze_unreached(model: PreTrainedModel) -> list[str]:
    """Stop the training of those that train and are not reached; returns their names."""
    parameters = own_parameters(model)
    names = [name for name in unreached(model) if parameters[name].requires_grad]
    for name in names:
        parameters[name].requires_grad_(False)
    return names


def _logits(output: object) -> list[Tensor]:
    """What the losses are of: the logits, and those of a middle head."""
    held = [getattr(output, name, None) for name in ("logits", "mini_logits")]
    return [logits.float().logsumexp(-1).sum() for logits in held if logits is not None]


def _kind(name: str) -> str:
    return EXPERT.sub(r"\1*.", name)
