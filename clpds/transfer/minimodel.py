"""Mini-model adaptation (Marchisio et al. 2023, arXiv 2212.10503): cut a shallow model out, plug its embeddings back.

Every function takes a checkpoint and derives another; tensors that stay are the source's own, unread.
"""

import copy
import re
from typing import Any

import torch
from transformers import PretrainedConfig

from clpds.checkpoint import Checkpoint, LazyTensor, anatomy
from clpds.errors import UserError
from clpds.models.minijoint import CLASSES
from clpds.recipe import NewLayers
from clpds.transfer.vocabulary_swap import parts, read_rows, swap_vocabulary
from clpds.vocabulary.roles import special_ids
from clpds.vocabulary.tokenizer import load_tokenizer


def add_middle_head(source: Checkpoint, take: int) -> Checkpoint:
    """``source`` with a second head after layer ``take``, a copy of its own to start with: what MiniJoint trains.

    Raises UserError for what is no BERT or RoBERTa with a masked LM head tied to the embedding, and for ``take``
    outside its layers.
    """
    config = source.config
    joint = CLASSES.get(config.model_type)
    found = anatomy(config)
    if joint is None or found.output_embedding or not found.has_head:
        known = " and ".join(CLASSES)
        raise UserError(f"{_named(source)} gets no middle head: only {known} with a tied one do; see method minimodel")
    _check_depth(source, take)
    added = {f"mini_{name}": tensor for name, tensor in source.tensors.items() if name.startswith(f"{joint.head}.")}
    return source.derive(added=added, config=_config(config, joint.config_class, mini_layers=take))


def primary(source: Checkpoint) -> Checkpoint:
    """A MiniJoint model without its middle head: an ordinary model, bit for bit the same; UserError for another."""
    config = source.config
    if not is_joint(source):
        raise UserError(f"{_named(source)} has no middle head to remove; method primary is for MiniJoint models")
    plain = type(config).__bases__[0]
    middle = tuple(name for name in source.tensors if name.startswith("mini_"))
    return source.derive(dropped=middle, config=_config(config, plain))


def mini_model(
    source: Checkpoint, take: int, *, new_layers: int = 0, new_from: NewLayers = "fresh", seed: int = 0
) -> Checkpoint:
    """The embeddings and the lowest ``take`` layers of ``source`` as an ordinary model.

    Of a MiniJoint model its middle head goes along, and ``take`` is where that stands. Of others the head is the
    source's, and ``new_layers`` are put between: drawn as the model class draws them, with the head's transform
    (``fresh``), or the source's layers above the cut (``next``) or its last ones (``last``).
    Raises UserError where the layers are not there.
    """
    if is_joint(source) and not new_layers:
        if take != source.config.mini_layers:
            raise UserError(f"{_named(source)} has its middle head after layer {source.config.mini_layers}, not {take}")
        head = CLASSES[source.config.model_type.removesuffix("-minijoint")].head
        top = tuple(name for name in source.tensors if name.startswith(f"{head}."))
        middle = {name: name.removeprefix("mini_") for name in source.tensors if name.startswith("mini_")}
        source = primary(source.derive(dropped=top).derive(renamed=middle))
    elif is_joint(source):
        source = primary(source)
    depth = _check_depth(source, take)
    first = depth - new_layers if new_from == "last" else take
    if first + new_layers > depth and new_from != "fresh":
        raise UserError(f"{_named(source)} has no {new_layers} layers to take above layer {take}")
    origins = [*range(take), *range(first, first + new_layers)]
    config = _shallow(source.config, [min(origin, depth - 1) for origin in origins])
    drawn = _drawn(source, config, new_layers, seed) if new_layers and new_from == "fresh" else {}
    tensors = {}
    for name in anatomy(config).shapes:
        layer = _layer(name)
        if layer is None:
            tensors[name] = drawn.get(name, source.tensors[name])
        elif layer < take or not drawn:
            tensors[name] = source.tensors[_at(name, origins[layer])]
        else:
            tensors[name] = drawn[_at(name, layer - take)]
    dropped = tuple(source.tensors)
    return source.derive(dropped=dropped, config=config).derive(added=tensors)


def plug(into: Checkpoint, adapted: Checkpoint) -> Checkpoint:
    """``into`` with the embedding, the tied output bias and the tokenizer of ``adapted``; all else is untouched.

    ``into`` may have a task's head instead of a language model's. Raises UserError where the widths differ, a
    tokenizer is missing, or an output matrix of its own makes half a vocabulary of this.
    """
    for one in (into, adapted):
        if anatomy(one.config).output_embedding:
            raise UserError(
                f"{_named(one)} has an output matrix of its own, which was learnt for another depth and cannot be "
                "plugged; mini-model adaptation is for tied embeddings"
            )
    if adapted.tokenizer_folder is None:
        raise UserError(f"{_named(adapted)} has no tokenizer; save the adapted model's tokenizer in its folder")
    ours, theirs = parts(into)["input"], parts(adapted)["input"]
    widths = [one.tensors[names[0]].shape[1] for one, names in ((into, ours), (adapted, theirs))]
    if widths[0] != widths[1]:
        raise UserError(f"{_named(into)} has embeddings of {widths[0]} numbers, {_named(adapted)} of {widths[1]}")
    if len(ours) > len(theirs):
        more = ", ".join(ours[len(theirs) :])
        raise UserError(
            f"{_named(into)} has {more}, for which {_named(adapted)} has nothing; embeddings are learnt under a "
            "model with a head, and plugged into a MiniJoint model after method primary"
        )
    rows = read_rows(adapted, theirs[: len(ours)])
    return swap_vocabulary(
        into,
        {"input": rows},
        used=torch.arange(len(rows)),
        special_ids=special_ids(load_tokenizer(adapted.tokenizer_folder)),
        tokenizer_folder=adapted.tokenizer_folder,
    )


def is_joint(checkpoint: Checkpoint) -> bool:
    """Whether the model has a middle head."""
    return type(checkpoint.config) in {joint.config_class for joint in CLASSES.values()}


def _check_depth(source: Checkpoint, take: int) -> int:
    depth: int = source.config.get_text_config().num_hidden_layers
    if take >= depth:
        raise UserError(f"{_named(source)} has {depth} layers; take must be fewer, not {take}")
    return depth


def _config(config: PretrainedConfig, kind: type[Any], **settings: Any) -> PretrainedConfig:
    """The same settings as a config of another class."""
    values = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures")}
    values.pop("mini_layers", None)
    return kind(**values, **settings)


def _shallow(config: PretrainedConfig, origins: list[int]) -> PretrainedConfig:
    """The config of a model whose layers are these ones of the old."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[origin] for origin in origins]
    text.num_hidden_layers = len(origins)
    return config


def _drawn(source: Checkpoint, config: PretrainedConfig, layers: int, seed: int) -> dict[str, LazyTensor]:
    """New layers, numbered from 0, and the head's own tensors, as the model class draws them; by the names there."""
    found = anatomy(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = found.model_class(_shallow(config, [config.get_text_config().num_hidden_layers - 1] * layers))
    body = f"{model.base_model_prefix}."
    dtype = source.tensors[found.input_embedding].dtype
    return {
        name: LazyTensor.of(tensor.to(dtype), f"the new {name}")
        for name, tensor in model.state_dict().items()
        if _layer(name) is not None or not (name.startswith(body) or name in found.vocabulary or name in found.tied)
    }


def _layer(name: str) -> int | None:
    """The number of the layer that a tensor belongs to."""
    number = re.search(r"\.(\d+)\.", name)
    return int(number[1]) if number else None


def _at(name: str, layer: int) -> str:
    return re.sub(r"\.\d+\.", f".{layer}.", name, count=1)


def _named(checkpoint: Checkpoint) -> str:
    return str(checkpoint.path or anatomy(checkpoint.config).model_class.__name__)
