"""TRILayer models out of encoders, and out of each other (TreLM: Li et al. 2021, arXiv 2107.12627).

Pure functions of checkpoints. ``docs/methods/trelm.md`` has what each of them is for.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PretrainedConfig

from clpds.checkpoint import Checkpoint, LazyTensor, anatomy
from clpds.errors import UserError
from clpds.headers import some
from clpds.models.trelm import TrelmBertConfig, TrelmRobertaConfig

CONFIGS: dict[str, type[PretrainedConfig]] = {"bert": TrelmBertConfig, "roberta": TrelmRobertaConfig}
BLOCK = re.compile(r"\.encoder\.layer\.(\d+)\.")


def require_middle(source: Checkpoint) -> None:
    """Raise UserError unless a TRILayer can be put into ``source``: BERT or RoBERTa with an even number of layers."""
    kind, layers = source.config.model_type, getattr(source.config, "num_hidden_layers", 0)
    if kind not in CONFIGS:
        raise UserError(f"{source.path} is a {kind} model; a TRILayer goes into {' and '.join(CONFIGS)} only")
    if layers % 2:
        raise UserError(f"{source.path} has {layers} layers and so no middle; a TRILayer needs an even number")


def insert_trilayer(source: Checkpoint, *, seed: int, keep_head: bool = False) -> Checkpoint:
    """``source`` with a TRILayer before block L/2, a copy of that block, and two language embeddings.

    These are drawn from the normal distribution with the config's ``initializer_range``. So is the head's
    matrix, its biases being 0 and its norm 1, unless ``keep_head``: the source's was made for other rows.
    Raises UserError as ``require_middle`` does.
    """
    require_middle(source)
    old = {key: value for key, value in source.config.to_dict().items() if key not in ("model_type", "architectures")}
    config = CONFIGS[source.config.model_type](**old)
    made = anatomy(config)
    generator = torch.Generator().manual_seed(seed)
    middle = f".encoder.layer.{config.num_hidden_layers // 2}."
    added: dict[str, LazyTensor] = {}
    fresh: dict[str, LazyTensor] = {}
    for name, shape in made.shapes.items():
        if ".trilayer." in name:
            # An object of its own: what is whose is told by identity (``Made.held``).
            added[name] = replace(source.tensors[name.replace(".encoder.trilayer.", middle)])
        elif name not in source.tensors:
            added[name] = _drawn(shape, source.config, generator)
        elif not (keep_head or name.startswith(made.model.base_model_prefix) or name == made.output_embedding):
            fresh[name] = _fresh(name, shape, source.config, generator)
    dtype = source.tensors[made.input_embedding].dtype
    added = {name: tensor.to(dtype) for name, tensor in added.items()}
    fresh = {name: tensor.to(dtype) for name, tensor in fresh.items()}
    return source.derive(added=added, replaced=fresh, config=config)


def merge(lower: Checkpoint, upper: Checkpoint) -> Checkpoint:
    """The blocks below the TRILayer from ``lower``, those above from ``upper``, of all else the mean in float32.

    Both come from one initial model by stages that each train one half. Types, config and tokenizer are those
    of ``upper``. Raises UserError unless both are TRILayer models with the same tensors.
    """
    for checkpoint in (upper, lower):
        if not isinstance(checkpoint.config, tuple(CONFIGS.values())):
            raise UserError(f"{checkpoint.path} is a {checkpoint.config.model_type} model without a TRILayer")
    ours, theirs = ({name: tensor.shape for name, tensor in one.tensors.items()} for one in (upper, lower))
    if wrong := sorted({name for name, _ in ours.items() ^ theirs.items()}):
        raise UserError(f"{lower.path} and {upper.path} differ in {some(wrong)}; merge two stages of one model")
    half = upper.config.num_hidden_layers // 2
    replaced = {}
    for name, tensor in upper.tensors.items():
        block = BLOCK.search(name)
        if block is None:
            replaced[name] = _mean(lower.tensors[name], tensor)
        elif int(block[1]) < half:
            replaced[name] = lower.tensors[name].to(tensor.dtype)
    return upper.derive(replaced=replaced)


def _mean(one: LazyTensor, other: LazyTensor) -> LazyTensor:
    def mean(a: Tensor, b: Tensor) -> Tensor:
        return ((a.float() + b.float()) / 2).to(other.dtype)

    rows = None
    if (first := one.rows) is not None and (second := other.rows) is not None:
        rows = lambda start, stop: mean(first(start, stop), second(start, stop))  # noqa: E731
    origin = f"the mean of {one.origin} and {other.origin}"
    return LazyTensor(other.shape, other.dtype, lambda: mean(one.load(), other.load()), rows, origin)


def _drawn(shape: tuple[int, ...], config: PretrainedConfig, generator: torch.Generator) -> LazyTensor:
    return LazyTensor.of(config.initializer_range * torch.randn(shape, generator=generator), "drawn at random")


def _fresh(name: str, shape: tuple[int, ...], config: PretrainedConfig, generator: torch.Generator) -> LazyTensor:
    """As transformers starts a head: matrices drawn, norms 1, biases 0."""
    if len(shape) > 1:
        return _drawn(shape, config, generator)
    return LazyTensor.of(torch.full(shape, float(name.endswith(".weight"))), "a fresh head")
