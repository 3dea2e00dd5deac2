"""Documents through a masked language model: kept apart, and the head at chosen positions where that can be had."""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from clpds.errors import UserError
from clpds.models.head import call_at as call_at
from clpds.models.head import choose_after
from clpds.models.isolation import require_fit, tried
from clpds.models.layout import Packed, Rows, Way, bare, continues_text, inputs_of

if TYPE_CHECKING:
    from clpds.data.blocks import Batch


def forward_at(model: nn.Module, batch: "Batch", chosen: Tensor) -> Any:
    """The model's output with logits (1, M, V) at the M ``chosen`` positions (B, N bool) of the blocks, row by row.

    ``model`` is a masked language model of transformers or a DeepSpeed engine around one, for which
    ``way_of_encoder`` gives a way; with `Rows`, a row has one document. It sees all of itself and nothing else.
    """
    found = tried(model)
    assert found.way is not None
    call = call_at if found.gathers else choose_after
    inputs = inputs_of(found.way, batch, model, causal=False)
    return call(model, chosen, **inputs, **language_inputs(model, batch.language_ids))


def language_inputs(model: nn.Module, ids: Tensor | None) -> dict[str, Tensor]:
    """What to pass to ``model`` so that it knows the languages (B,) of its rows: nothing unless it has such inputs."""
    return {} if ids is None or not has_languages(model) else {"language_ids": ids}


def has_languages(model: nn.Module) -> bool:
    """Whether the model is told of what language its input is: a TRILayer model."""
    return hasattr(bare(model).config, "num_languages")


def way_of_encoder(model: nn.Module) -> Way:
    """How documents are put before this masked language model; UserError where it is none, or there is no exact way.

    With an engine every rank has to call; weights must be in place.
    """
    inner = bare(model)
    found = tried(model)
    problem = "it goes on with a text, it fills no gaps" if continues_text(inner) else found.problem
    if problem:
        raise UserError(f"{type(inner).__name__} cannot be used as a masked language model here: {problem}")
    assert found.way is not None
    return found.way


def require_encoder(model: nn.Module, *, single: bool = False, micro_batch: int = 1) -> None:
    """Raise UserError unless this is a masked language model that can be trained on blocks of this kind.

    ``single`` says that each has one document, ``micro_batch`` how many a forward pass has.
    """
    way = way_of_encoder(model)
    if isinstance(way, Rows) and not single:
        raise UserError(
            f"{type(bare(model)).__name__} cannot keep the documents of a block apart; write the data with "
            "`clpds data --one-document`"
        )
    require_fit(model, way, micro_batch)


def longest(model: nn.Module) -> int | None:
    """The most tokens of a text that have positions, where the config sets a limit; a meta model will do."""
    inner = bare(model)
    positions = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 0:  # XLNet has -1: any
        return None
    words = inner.get_input_embeddings()
    tables = [held for held in inner.modules() if isinstance(held, nn.Embedding) and held is not words]
    counted = [table.padding_idx + 1 for table in tables if table.padding_idx is not None]
    if not counted:
        return positions
    way = tried(inner).way
    return positions - (way.offset if isinstance(way, Packed) else max(counted))
