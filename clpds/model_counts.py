"""What a config counts, before a model is built of it: a number too large would fill the memory or never end."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clpds.bounds import COUNTED, IDS, LAYERS, MODULES, POSITIONS, VOCABULARY, WIDTH
from clpds.errors import UserError

_LAYERS = re.compile(
    r"layers?(_num|_per_stack|_\d)?$|depths?$|blocks?$|block_(num|count|repeats)|stages?$|hidden_groups|attention_types"
)
_PARTS = re.compile(r"expert|inner_group|feedforward_networks")
# The first that fits a key has its say. Learned from where the language models of transformers loop over a number.
BOUNDS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"_ids?$|_type$|_freq$|_interval$|^block_size$"), 2**63),
    (re.compile(r"vocab"), VOCABULARY),
    (re.compile(r"position|length|context"), POSITIONS),
    (
        re.compile(
            r"hidden_(size|dim)|intermediate|embd|embed|head_dim|ffn|^n_inner$|inner_dim|state_size|^d_\w+$|^dim$"
        ),
        WIDTH,
    ),
    (_LAYERS, LAYERS),
    (_PARTS, COUNTED),
    (re.compile(r"heads?$|groups?$|labels|languages|types$|codebooks|hash|altup|ngram|channels|^mtp"), COUNTED),
)
_NAMES = ("id2label", "label2id", "quantization_config", "task_specific_params")  # their keys are names, or no shapes


def require_counts(config: Mapping[str, Any]) -> None:
    """UserError that names the key of ``config`` or of a section in it whose number no model has."""
    sections = [config]
    while sections:
        section = sections.pop()
        most = {_LAYERS: 1.0, _PARTS: 1.0}
        for key, value in section.items():
            if not isinstance(key, str) or key in _NAMES:
                continue
            if isinstance(value, Mapping):
                sections.append(value)
                continue
            fits = next(((form, limit) for form, limit in BOUNDS if form.search(key)), None)
            if fits is None:
                continue
            largest = max(_numbers(value), default=0)
            if largest > fits[1]:
                raise UserError(f"{key} is {_short(largest)}, and no model has over {fits[1]:,}")
            if fits[0] in most:
                most[fits[0]] = max(most[fits[0]], largest)
        layers, parts = most.values()
        if layers * parts > MODULES:
            raise UserError(
                f"{layers:,} layers of {parts:,} experts are too many: no model has over {MODULES:,} in all"
            )


def require_ids(where: object, ids: Iterable[int]) -> None:
    """UserError where an id asks for more rows than any vocabulary has."""
    if (largest := max(ids, default=0)) >= IDS:
        raise UserError(f"{where} gives a token the id {largest:,}, and no vocabulary has over {IDS:,}; mend it")


def _numbers(value: Any) -> Iterator[float]:
    """All numbers of a value and of the lists in it."""
    values = [value]
    while values:
        one = values.pop()
        if isinstance(one, list | tuple):
            values += one
        elif isinstance(one, int | float) and one == one:
            yield one


def _short(number: float) -> str:
    return f"{number:,}" if number < 10**18 else f"{number:.0e}" if number < 10**300 else "over 1e300"
