"""The token ids that a config and a generation config hold, under another vocabulary.

Ids of the seven roles are the target tokenizer's. What generation lists (words that are forbidden, forced or favoured)
keeps the tokens that both vocabularies have. Every other ``*_token_id``, such as an image's, stays as it is: it is no
tokenizer's role.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import GenerationConfig, PretrainedConfig

from clpds.errors import UserError
from clpds.vocabulary.roles import ROLES, STANDS_FOR

AnyConfig = TypeVar("AnyConfig", PretrainedConfig, GenerationConfig)
Moved = Mapping[int, int]
"""Source id to target id of the tokens that both have."""


def with_ids(config: AnyConfig, special_ids: Mapping[str, int], moved: Moved) -> AnyConfig:
    """A copy whose ids are the target's; None for a role that the target does not fill.

    Where a class insists on an id, another role stands in for it (cls for bos, sep for eos) or it keeps the class's
    default. Raises UserError where it insists on a padding id, whose row is never trained, and the target has none.
    """
    config = copy.deepcopy(config)
    for part in parts_with_ids(config):
        for role in ROLES:
            if f"{role}_token_id" in vars(part):
                _set_role(part, role, special_ids, moved)
        for key, renumber in LISTS.items():
            if (value := vars(part).get(key)) is not None:
                _set(part, key, renumber(value, moved))
    return config


def parts_with_ids(config: PretrainedConfig | GenerationConfig) -> Iterator[Any]:
    """The config and those inside it down to its text config; of an image's or a sound's none."""
    yield config
    if not isinstance(config, PretrainedConfig) or (text := config.get_text_config()) is config:
        return
    for inner in vars(config).values():
        if isinstance(inner, PretrainedConfig) and (inner is text or inner.get_text_config() is text):
            yield from parts_with_ids(inner)


def _set_role(part: Any, role: str, special_ids: Mapping[str, int], moved: Moved) -> None:
    key = f"{role}_token_id"
    new, old = special_ids.get(key), vars(part)[key]
    ids: Any = new
    if isinstance(old, list | tuple):  # Llama 3.1 ends a text in three ways
        ends = dict.fromkeys([new, *(moved.get(id_) for id_ in old)])
        ids = [id_ for id_ in ends if id_ is not None]
        ids = ids if len(ids) > 1 else next(iter(ids), None)
    if _set(part, key, ids) or ids is not None:
        return
    if role == "pad":
        raise UserError(
            f"models of type {part.model_type} must have a padding id, but the target tokenizer has no pad token; "
            "name one in its tokenizer_config.json"
        )
    stand_in = special_ids.get(f"{STANDS_FOR.get(role)}_token_id")
    setattr(part, key, getattr(type(part), key) if stand_in is None else stand_in)


def _set(part: Any, key: str, value: Any) -> bool:
    """Whether the class takes this value."""
    try:
        setattr(part, key, value)
    except StrictDataclassFieldValidationError:
        return False
    return True


def _one(id_: int | list[int], moved: Moved) -> int | list[int] | None:
    return moved.get(id_) if isinstance(id_, int) else _ids(id_, moved)


def _ids(ids: list[int], moved: Moved) -> list[int] | None:
    return [moved[id_] for id_ in ids if id_ in moved] or None


def _words(words: list[Any], moved: Moved) -> list[Any] | None:
    """Lists of ids, each whole or not at all; lists of such lists too (any of these words)."""
    if all(isinstance(id_, int) for id_ in words):
        return [moved[id_] for id_ in words] if all(id_ in moved for id_ in words) else None
    return [kept for word in words if (kept := _words(word, moved))] or None


def _places(pairs: list[list[int]], moved: Moved) -> list[list[int]] | None:
    return [[place, moved[id_]] for place, id_ in pairs if id_ in moved] or None


def _bias(bias: Any, moved: Moved) -> Any:
    """A list of pairs (ids, number), or a mapping."""
    pairs = bias.items() if isinstance(bias, Mapping) else bias
    kept = [[new, number] for ids, number in pairs if (new := _words(list(ids), moved))]
    return ({tuple(ids): number for ids, number in kept} if isinstance(bias, Mapping) else kept) or None


LISTS: dict[str, Callable[[Any, Moved], Any]] = {
    "suppress_tokens": _ids,
    "begin_suppress_tokens": _ids,
    "bad_words_ids": _words,
    "force_words_ids": _words,
    "forced_decoder_ids": _places,
    "forced_bos_token_id": _one,
    "forced_eos_token_id": _one,
    "decoder_start_token_id": _one,
    "sequence_bias": _bias,
    "constraints": lambda constraints, moved: None,  # objects, which have ids inside
}
