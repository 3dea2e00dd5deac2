"""Documents through a causal model: packed into blocks, where they can be kept apart, or one a row.

With ``attention_mask=None``, no cache and ``position_ids`` that restart at each document, the masks
of transformers (``masking_utils``) are block-diagonal for every attention implementation: eager,
sdpa and flex get the mask, flash attention the lengths. That is so for GPT-2, GPT-NeoX, Llama,
Mistral, Qwen, Gemma and their kin. OPT, XGLM and Falcon take ``position_ids`` but build their mask
without them: they are given a mask of four dimensions (eager and sdpa only), and gpt-oss one for each type of
layer. No way is left where the forward takes no ``position_ids`` (BLOOM, MPT) or a layer carries a state from token to
token (Mamba, short convolutions, linear attention). Which it is, a copy of the model is asked (`isolation.py`).
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from clpds.errors import UserError
from clpds.models.isolation import require_fit, tried
from clpds.models.layout import Packed, Rows, Way, bare, continues_text, inputs_of
from clpds.models.trial import without_cache

if TYPE_CHECKING:
    from clpds.data.blocks import Batch


def forward_packed(model: nn.Module, batch: "Batch", *, isolate: bool) -> Tensor:
    """Logits (B, N, V) of a batch of blocks, in the model's dtype and on the batch's device.

    ``model`` is a causal model of transformers or a DeepSpeed engine around one. With ``isolate``
    the documents of a block do not see each other, provided ``can_isolate(model)`` or each row has one; without,
    every token sees all of the block before it and positions count from the block's start.
    """
    inputs = {"input_ids": batch.input_ids}
    if isolate:
        inputs = inputs_of(way_of_causal(model), batch, model, causal=True)
    logits: Tensor = model(**inputs, **without_cache(bare(model))).logits
    return logits


def can_isolate(model: nn.Module) -> bool:
    """Whether packed documents can be kept apart in this model (or DeepSpeed engine), found by trying.

    The first call costs some passes of a small copy. Weights must be in place; with an engine every rank has to call.
    """
    return isinstance(tried(model).way, Packed)


def way_of_causal(model: nn.Module) -> Way:
    """How documents are put before this causal model; UserError where it is none, or there is no exact way."""
    inner = bare(model)
    name = type(inner).__name__
    if not continues_text(inner):
        raise UserError(f"{name} does not go on with a text; set objective: masked if it fills gaps")
    found = tried(model)
    if not found.causal:
        raise UserError(
            f"{name} with this config sees the tokens that it is to predict (is_decoder or causal is false in "
            "config.json): it is no causal language model"
        )
    if found.way is None:
        raise UserError(f"{name} cannot be used as a causal language model here: {found.problem}")
    return found.way


def require_causal(model: nn.Module, *, isolate: bool, single: bool, micro_batch: int) -> None:
    """Raise UserError unless this is a causal model that can be trained on blocks of this kind.

    ``single`` says that each has one document, ``isolate`` that several are to be kept apart, ``micro_batch`` how many
    blocks a forward pass has.
    """
    way = way_of_causal(model)
    if isolate and not single and isinstance(way, Rows):
        kind = bare(model).config.model_type
        raise UserError(
            f"{kind} models cannot keep the documents of a block apart; write the data with "
            "`clpds data --one-document`, or set isolate_documents: false"
        )
    if single:
        require_fit(model, way, micro_batch)
