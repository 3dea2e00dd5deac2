"""Packed blocks through a masked language model: documents kept apart, and a head at chosen positions only.

Encoders have no causal mask to build on: they are given one of four dimensions, block-diagonal by the
positions, which transformers takes as it is (eager and sdpa), and position ids that restart at each document,
where RoBERTa and its kin count from the padding id + 1. The output matrix is most of the work of a small model,
so the hidden states are gathered between body and head: a hook on the body's output, after which the model's own
forward goes on. Whether all that holds for a model is found by trying, not by a list.
"""

import inspect
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from clpds.errors import UserError
from clpds.models.packing import LENGTH, bare, document_mask

if TYPE_CHECKING:
    from clpds.data.blocks import Batch

_problems: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def forward_at(model: nn.Module, batch: "Batch", chosen: Tensor) -> Any:
    """The model's output with logits (1, M, V) at the M ``chosen`` positions (B, N bool) of the blocks, row by row.

    ``model`` is a masked language model of transformers or a DeepSpeed engine around one, for which
    ``require_encoder`` holds. A document sees all of itself and nothing else.
    """
    return _forward(model, batch.input_ids, batch.position_ids, chosen, batch.language_ids)


def call_at(model: nn.Module, chosen: Tensor, **inputs: Tensor) -> Any:
    """The model's output for ``inputs`` with logits (1, M, V) at the M ``chosen`` positions (B, N bool), row by row."""

    def gather(body: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, ModelOutput):
            output["last_hidden_state"] = output["last_hidden_state"][chosen][None]
            if "hidden_states" in output:  # for a middle head
                output["hidden_states"] = tuple(hidden[chosen][None] for hidden in output["hidden_states"])
        return output

    hook = bare(model).base_model.register_forward_hook(gather)
    try:
        return model(**inputs)
    finally:
        hook.remove()


def language_inputs(model: nn.Module, ids: Tensor | None) -> dict[str, Tensor]:
    """What to pass to ``model`` so that it knows the languages (B,) of its rows: nothing unless it has such inputs."""
    return {} if ids is None or not has_languages(model) else {"language_ids": ids}


def has_languages(model: nn.Module) -> bool:
    """Whether the model is told of what language its input is: a TRILayer model."""
    return hasattr(bare(model).config, "num_languages")


def require_encoder(model: nn.Module) -> None:
    """Raise UserError unless packed documents can be kept apart in this model and its head gathered, found by trying.

    With an engine every rank has to call; weights must be in place.
    """
    inner = bare(model)
    if inner not in _problems:
        _problems[inner] = _problem(model)
    if problem := _problems[inner]:
        raise UserError(f"{type(inner).__name__} cannot be used as a masked language model here: {problem}")


def position_offset(model: nn.Module) -> int:
    """What a position lacks to its row in the table: the padding id + 1 where the table has one (RoBERTa)."""
    words = bare(model).get_input_embeddings()
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and module is not words]
    return max((table.padding_idx + 1 for table in tables if table.padding_idx is not None), default=0)


def longest(model: nn.Module) -> int | None:
    """The most tokens of a text that have positions, where the config sets a limit; a meta model will do."""
    positions = getattr(bare(model).config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None or positions < 0 else positions - position_offset(model)  # XLNet says -1


def _forward(
    model: nn.Module, input_ids: Tensor, position_ids: Tensor, chosen: Tensor, language_ids: Tensor | None = None
) -> Any:
    inner = bare(model)
    return call_at(
        model,
        chosen,
        input_ids=input_ids,
        attention_mask=document_mask(position_ids, next(inner.parameters()).dtype, causal=False),
        position_ids=position_ids + position_offset(inner),
        **language_inputs(model, language_ids),
    )


def _problem(model: nn.Module) -> str | None:
    """What is in the way, or None."""
    inner = bare(model)
    if inner.can_generate():
        return "it goes on with a text, it fills no gaps"
    if inner.base_model is inner or "position_ids" not in inspect.signature(inner.forward).parameters:
        return "its forward takes no position_ids"
    if "sliding_attention" in (getattr(inner.config, "layer_types", None) or ()):
        return "some of its layers see a window only"
    device = next(inner.parameters()).device
    second = torch.arange(3, 3 + LENGTH)
    position_ids = torch.arange(LENGTH).repeat(1, 2).to(device)
    everywhere = torch.ones_like(position_ids, dtype=torch.bool)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            # Equal places in equal shapes are computed alike to the last bit.
            one, other = (
                _forward(model, torch.cat([first, second])[None].to(device), position_ids, everywhere).logits.float()
                for first in (second.flip(0), second.roll(3))
            )
            few = everywhere.logical_and(position_ids % 3 == 0)
            gathered = _forward(model, torch.cat([second.roll(3), second])[None].to(device), position_ids, few).logits
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
        return " ".join(str(error).split())
    finally:
        model.train(training)
    change = (one - other).abs()[0]
    if change[LENGTH:].max() > 1e-6 * change[:LENGTH].max():
        return "it cannot keep the documents of a block apart"
    if gathered.shape[:2] != (1, int(few.sum())):
        return "its head cannot be given some positions only"
    return None
