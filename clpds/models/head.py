"""A head at chosen positions only.

The output matrix is most of the work of a small masked language model, so the hidden states are gathered between body
and head: a hook on the body's output, after which the model's own forward goes on.
"""

from typing import Any

from torch import Tensor, nn
from transformers.utils import ModelOutput

from clpds.models.layout import bare


def call_at(model: nn.Module, chosen: Tensor, **inputs: Any) -> Any:
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


def choose_after(model: nn.Module, chosen: Tensor, **inputs: Any) -> Any:
    """As ``call_at``, for heads that want the whole text: all logits are computed, and those at ``chosen`` kept."""
    output = model(**inputs)
    output["logits"] = output["logits"][chosen][None]
    return output
