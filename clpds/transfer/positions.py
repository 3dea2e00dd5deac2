"""Position tables of models that count positions from the padding id (RoBERTa), when the padding id changes.

Position i has row pad_token_id + 1 + i there, and the table moves along. Which table that is, and whether the class
counts so or from a number of its own (MPNet), is tried: a small copy (`models/trial.py`) says what rows it reads.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from clpds.checkpoint import Checkpoint, LazyTensor, anatomy
from clpds.checkpoint.anatomy import meta_model
from clpds.errors import UserError
from clpds.models.trial import WINDOW, small_copy, some_ids, without_cache

CLOSE = 1e-4  # of the largest logit


def count_positions_from(source: Checkpoint, config: PretrainedConfig) -> dict[str, LazyTensor]:
    """The position tables that ``config``, whose padding id is the target's, needs, and their size written into it.

    Raises UserError where the class computes otherwise with this padding id, however its tables are moved.
    """
    before, after = getattr(source.config, "pad_token_id", None), getattr(config, "pad_token_id", None)
    shapes = anatomy(source.config).shapes
    if after == before or not _padded_tables(anatomy(source.config).model):
        return {}
    if after is None:
        raise UserError(f"{config.model_type} counts positions from the padding id, but the tokenizer has no pad token")
    other = copy.deepcopy(source.config)
    other.pad_token_id = after
    other.vocab_size = max(other.vocab_size, after + 1)
    if isinstance(getattr(other, "max_position_embeddings", None), int):
        other.max_position_embeddings += after
    old, new = (small_copy(meta_model(each), torch.device("cpu")) for each in (source.config, other))
    if old is None or new is None:
        raise UserError(
            f"{config.model_type} cannot be tried with the padding id {after}; give the pad token id {before}"
        )
    ids = _common_ids(old, new)
    (logits, rows), (_, new_rows) = _passed(old, ids), _passed(new, ids)
    moves = {name: new_rows[name] - row for name, row in rows.items() if f"{name}.weight" in shapes}
    moves = {name: by for name, by in moves.items() if by}
    _give_weights(old, new, moves)
    # What was the padding id is now a word's: one with the same row must do in its place.
    words, twin = new.get_input_embeddings().weight, ids.clone()
    if before is not None and before not in ids:
        with torch.no_grad():
            words[before] = words[ids[1]]
        twin[1] = before
    changes = torch.cat([(_passed(new, text)[0] - logits).abs() for text in (ids, twin)])
    if before is not None:
        changes[..., before : before + 1] = 0  # of tied embeddings, the word's own logit
    if bool(changes.max() > CLOSE * logits.abs().max()):
        raise UserError(
            f"{config.model_type} computes otherwise where the pad token has another id than {before}; the tokenizer "
            f"has it at {after}: give it the id {before}"
        )
    if moves:
        config.max_position_embeddings += max(moves.values(), key=abs)
    names = {name: f"{name}.weight" for name in moves}
    return {names[name]: _moved(source.tensors[names[name]], by) for name, by in moves.items()}


def _padded_tables(model: PreTrainedModel) -> dict[str, nn.Module]:
    """What has a padding row beside the table of words, quantised (I-BERT) or computed (XGLM) ones too."""
    words = model.get_input_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "padding_idx", None), int) and module is not words
        and not any(child for child in module.children())
    }  # fmt: skip


def _common_ids(old: PreTrainedModel, new: PreTrainedModel) -> Tensor:
    """A text of tokens that are special in neither."""
    ids = some_ids(old, 64)
    known = set(some_ids(new, 64).tolist())
    return torch.tensor([id_ for id_ in ids.tolist() if id_ in known][: 6 * WINDOW])


def _passed(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, dict[str, int]]:
    """Logits of a text, and the row that each padded table was asked for first."""
    rows: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor) and not inputs[0].is_floating_point():
                rows.setdefault(name, int(inputs[0].flatten()[0]))

        return hook

    hooks = [held.register_forward_pre_hook(note(name)) for name, held in _padded_tables(model).items()]
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids[None], **without_cache(model)).logits
    for hook in hooks:
        hook.remove()
    return logits[..., : min(model.config.get_text_config().vocab_size, 32)], rows


def _give_weights(old: PreTrainedModel, new: PreTrainedModel, moves: dict[str, int]) -> None:
    """Put the weights of ``old`` into ``new``, tables of positions moved."""
    goals = new.state_dict()
    with torch.no_grad():
        for name, held in old.state_dict().items():
            by = moves.get(name.removesuffix(".weight"), 0)
            moved = (
                held if by == 0 else torch.cat([held.new_zeros(by, *held.shape[1:]), held]) if by > 0 else held[-by:]
            )
            rows = min(len(moved), len(goals[name])) if held.dim() else None
            goals[name][:rows].copy_(moved[:rows]) if held.dim() else goals[name].copy_(held)


def _moved(table: LazyTensor, by: int) -> LazyTensor:
    """``table`` with ``by`` zero rows put before it, or with that many cut off where ``by`` is negative."""

    def load() -> Tensor:
        rows = table.load()
        return torch.cat([rows.new_zeros(by, *rows.shape[1:]), rows]) if by > 0 else rows[-by:]

    return LazyTensor((table.shape[0] + by, *table.shape[1:]), table.dtype, load, origin=table.origin)
