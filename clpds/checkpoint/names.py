"""Names of tensors: as files spell them, and as the model class does.

transformers keeps, for each model type, the renamings and the conversions (experts stacked into one
tensor, for instance) between the two. They are applied here without reading a weight.
"""

import contextlib
import copy
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForPreTraining
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    apply_converters,
    apply_renamings,
    dot_natural_key,
    rename_source_key,
)

from clpds.checkpoint.anatomy import Anatomy
from clpds.checkpoint.lazy import LazyTensor
from clpds.errors import UserError
from clpds.headers import some

BUFFERS = ("inv_freq", "position_ids")  # once saved, now computed by every class
AT_ONCE = 2**22  # elements of two tied tensors compared at once


def fit(found: Mapping[str, LazyTensor], wanted: Anatomy, where: Path, *, part: bool = False) -> dict[str, LazyTensor]:
    """The tensors in the model class's names and order, or a UserError that lists what does not fit.

    Leaves out the tensors of a composite's other parts, where the model is one ``part`` of it.
    A tied tensor that the file holds under both names is compared, the one case in which values are
    read: where they differ, the config's ``tie_word_embeddings`` is wrong, and training on from
    either would lose the other.
    """
    tensors = _class_names(found, wanted)
    for alias, name in wanted.tied.items():
        twin = tensors.pop(alias, None)
        if twin is not None and not _equal(tensors.setdefault(name, twin), twin):
            raise UserError(
                f"{where}: config.json ties {alias} to {name}, but the weights hold two different tensors; "
                "set tie_word_embeddings to false there"
            )
    ignored = (*BUFFERS, *(wanted.model._keys_to_ignore_on_load_unexpected or ()))
    missing = [name for name in wanted.shapes if name not in tensors]
    unexpected = [
        name for name in tensors if name not in wanted.shapes and not any(re.search(end, name) for end in ignored)
    ]
    if unexpected and part:
        unexpected = []
    if unexpected:
        other_heads = _other_heads(wanted)
        unexpected = [name for name in unexpected if name not in other_heads]
    misshapen = [
        f"{name} {tensors[name].shape} instead of {shape}"
        for name, shape in wanted.shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    for problem, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)):
        if names:
            advice = "the weights do not belong to its config.json, or are incomplete"
            if problem == "missing" and names == [wanted.output_embedding]:
                advice = "if input and output embeddings are one, set tie_word_embeddings to true in config.json"
            raise UserError(f"{where}: {problem} for {wanted.model_class.__name__}: {some(names)}; {advice}")
    return {name: _readable(tensors[name], wanted) for name in wanted.shapes}


def _readable(tensor: LazyTensor, wanted: Anatomy) -> LazyTensor:
    """``tensor``, and one of float8, which nothing is computed in, cast up to the config's type; that is exact."""
    if tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1:
        usual = wanted.model.config.dtype
        return tensor.to(usual if usual is not None and usual.itemsize > 1 else torch.bfloat16)
    return tensor


def file_names(tensors: Mapping[str, LazyTensor], wanted: Anatomy) -> dict[str, LazyTensor]:
    """The tensors under the names, in the shapes and in the order that ``save_pretrained`` writes.

    Where transformers does not read back what its own renaming makes, they keep the model class's names. Raises
    UserError where it reads those neither: it would draw the lost tensors at random and go on.
    """
    named = _saved_names(tensors, wanted)
    made = {name: tensor.shape for name, tensor in tensors.items()}
    for files in (named, dict(tensors)):
        read = {name: tensor.shape for name, tensor in _class_names(files, wanted).items()}
        if read == made:
            return files
    wrong = some(sorted({name for name, _ in read.items() ^ made.items()}))
    raise UserError(f"transformers would not read {wanted.model_class.__name__} back as it saves it: {wrong} differ")


def _saved_names(tensors: Mapping[str, LazyTensor], wanted: Anatomy) -> dict[str, LazyTensor]:
    """The names under which transformers saves, whether or not it reads them back."""
    transforms = get_model_conversion_mapping(wanted.model, add_legacy=False)
    transforms = [t.reverse_transform() for t in reversed(transforms) if not isinstance(t, PrefixChange)]
    if not transforms:
        return dict(tensors)
    renamings, converters = _split(transforms)

    def rename(name: str) -> tuple[str, str | None]:
        converted, pattern = apply_converters(name, converters)
        return (converted, pattern) if pattern is not None else (apply_renamings(name, renamings), None)

    # What a converter makes has its last name only after the renamings; all else has been through them, once.
    return _convert(tensors, rename, converters, wanted, after=lambda name: apply_renamings(name, renamings))


def _other_heads(wanted: Anatomy) -> set[str]:
    """Names that this body has under other heads (a pooler, next-sentence prediction) and files often hold."""
    names: set[str] = set()
    for auto in (AutoModel, AutoModelForPreTraining):
        with contextlib.suppress(ValueError), torch.device("meta"):  # no such class for this type
            model = auto.from_config(copy.deepcopy(wanted.model.config))
            names |= {prefix + name for name in model.state_dict() for prefix in ("", f"{model.base_model_prefix}.")}
    return names


def _class_names(tensors: Mapping[str, LazyTensor], wanted: Anatomy) -> dict[str, LazyTensor]:
    renamings, converters = _split(get_model_conversion_mapping(wanted.model))
    known = dict.fromkeys((*wanted.shapes, *wanted.tied), True)
    prefix = wanted.model.base_model_prefix

    def rename(name: str) -> tuple[str, str | None]:
        renamed, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if renamed not in known and name in known:
            return name, None
        return renamed, pattern

    return _convert(tensors, rename, converters, wanted)


def _split(transforms: Iterable[WeightTransform]) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    transforms = list(transforms)
    return (
        [transform for transform in transforms if isinstance(transform, WeightRenaming)],
        [transform for transform in transforms if isinstance(transform, WeightConverter)],
    )


def _convert(
    tensors: Mapping[str, LazyTensor],
    rename: Callable[[str], tuple[str, str | None]],
    converters: list[WeightConverter],
    wanted: Anatomy,
    after: Callable[[str], str] = str,
) -> dict[str, LazyTensor]:
    """Rename every tensor; those that match a pattern of a converter are handed to it together.

    ``after`` renames what a converter has made.
    """
    groups: dict[str, list[tuple[str | None, str]]] = {}
    for name in sorted(tensors, key=dot_natural_key):
        new, pattern = rename(name)
        groups.setdefault(new, []).append((pattern, name))
    made: dict[str, LazyTensor] = {}
    for new, parts in groups.items():
        pattern, name = parts[0]
        if pattern is None:
            made[new] = tensors[name]
        else:
            converter = next(c for c in converters if pattern in c.source_patterns)
            found = _converted(new, converter, [(str(p), name, tensors[name]) for p, name in parts], wanted)
            made |= {after(name): tensor for name, tensor in found.items()}
    return made


def _converted(
    first: str, converter: WeightConverter, parts: list[tuple[str, str, LazyTensor]], wanted: Anatomy
) -> dict[str, LazyTensor]:
    """What the converter makes of ``parts``, by name; computed when one of them is asked for."""

    def run(value: Callable[[LazyTensor], Tensor]) -> dict[str, Tensor]:
        fresh = copy.deepcopy(converter)
        for pattern, name, part in parts:
            fresh.add_tensor(first, name, pattern, value(part))
        made = fresh.convert(first, model=wanted.model, config=wanted.model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}

    # One tensor may become many: the others wait here until they are asked for, which is soon,
    # because tensors are read in the order of their names.
    made: dict[str, Tensor] = {}

    def load(name: str) -> Tensor:
        if name not in made:
            made.update(run(lambda part: part.load()))
        return made.pop(name)

    outline = run(lambda part: torch.empty(part.shape, dtype=part.dtype, device="meta"))
    origin = parts[0][2].origin
    return {
        name: LazyTensor(tuple(shape.shape), shape.dtype, partial(load, name), origin=origin)
        for name, shape in outline.items()
    }


def _equal(one: LazyTensor, other: LazyTensor) -> bool:
    if one is other:
        return True
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return all(
        torch.equal(one.flat(start, stop), other.flat(start, stop))
        for start in range(0, one.numel, AT_ONCE)
        for stop in [min(start + AT_ONCE, one.numel)]
    )
