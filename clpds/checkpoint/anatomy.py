"""What a model class says of its tensors, found on the meta device rather than listed by name."""

import copy
from dataclasses import dataclass

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from clpds.errors import UserError
from clpds.model_counts import require_counts
from clpds.models import minijoint, trelm  # which also register their classes with the Auto classes

KINDS = (
    "LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification",
    "ForQuestionAnswering", "Model",
)  # fmt: skip


@dataclass(frozen=True)
class Anatomy:
    """Names and shapes that ``state_dict`` of the model class has, and the roles of the vocabulary's."""

    model: PreTrainedModel
    """The model on the meta device: it knows its names and has no weights."""
    shapes: dict[str, tuple[int, ...]]
    """Every tensor once: tied names are left out, they are in ``tied``."""
    parameters: frozenset[str]
    """Those of ``shapes`` that are parameters; the others are persistent buffers."""
    tied: dict[str, str]
    """Alias to the name that holds the tensor, for instance lm_head.weight to the input embedding."""
    input_embedding: str
    output_embedding: str | None
    """The head's own matrix, or None where it is tied to the input embedding."""
    has_head: bool
    """Whether it predicts tokens; an encoder without head or with a classifier does not."""
    vocabulary: dict[str, int]
    """All of ``shapes`` with a row a token, and which dimension counts them: both matrices, biases, further tables."""

    @property
    def model_class(self) -> type[PreTrainedModel]:
        return type(self.model)


def anatomy(config: PretrainedConfig) -> Anatomy:
    """Build the model class twice on the meta device, with V and V + 1 words, and compare.

    A tensor of which a dimension moved belongs to the vocabulary, whatever its name. Costs
    milliseconds and no memory. Raises UserError where the config has no language-model class.
    """
    model = meta_model(config)
    if model.config.is_encoder_decoder:
        raise UserError(
            f"{type(model).__name__} has an encoder and a decoder, and what clpds trains and scores is one or the other"
        )
    wider = copy.deepcopy(config)
    set_vocabulary(wider, config.get_text_config().vocab_size + 1)
    wider_shapes = {name: tuple(tensor.shape) for name, tensor in meta_model(wider).state_dict().items()}

    state = model.state_dict(keep_vars=True)
    tied = {alias: name for alias, name in model.all_tied_weights_keys.items() if alias in state}
    held = {name: tensor for name, tensor in state.items() if name not in tied}
    names = {id(tensor): name for name, tensor in held.items()}
    input_embedding = names[id(model.get_input_embeddings().weight)]
    head = model.get_output_embeddings()
    output_embedding = names[id(head.weight)] if head is not None else None
    return Anatomy(
        model=model,
        shapes={name: tuple(tensor.shape) for name, tensor in held.items()},
        parameters=frozenset(name for name, tensor in held.items() if isinstance(tensor, nn.Parameter)),
        tied=tied,
        input_embedding=input_embedding,
        output_embedding=None if output_embedding == input_embedding else output_embedding,
        has_head=head is not None,
        vocabulary={
            name: _first_difference(tuple(tensor.shape), wider_shapes[name])
            for name, tensor in held.items()
            if wider_shapes[name] != tuple(tensor.shape)
        },
    )


def set_vocabulary(config: PretrainedConfig, size: int) -> None:
    """Give ``config`` so many tokens, in every key that counts them (Gemma 3n and Marian have a second)."""
    text = config.get_text_config()
    text.vocab_size = size
    for key in ("vocab_size_per_layer_input", "decoder_vocab_size"):
        if getattr(text, key, None) is not None:
            setattr(text, key, size)


def _first_difference(shape: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next(place for place, (one, two) in enumerate(zip(shape, other, strict=True)) if one != two)


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model of this config without memory for its weights; UserError where it counts what no model has."""
    require_counts(config.to_dict())
    with torch.device("meta"):
        return model_class(config)._from_config(copy.deepcopy(config))


def own_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Every parameter once, under the name that a checkpoint holds it by; tied names are left out.

    torch's ``named_parameters`` takes the name that comes first, which in XLM-RoBERTa is the output matrix's.
    """
    aliases = model.all_tied_weights_keys
    return {name: held for name, held in model.named_parameters(remove_duplicate=False) if name not in aliases}


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The config's own class, be it without a head; else that with a language-model head for its type.

    Where a type has both heads, the masked one is taken unless the config says decoder.
    """
    for name in config.architectures or ():
        for home in (transformers, minijoint, trelm):
            if name.endswith(KINDS) and hasattr(home, name):
                return getattr(home, name)
    masked = type(config) in AutoModelForMaskedLM._model_mapping
    causal = type(config) in AutoModelForCausalLM._model_mapping
    if not masked and not causal:
        raise UserError(f"model type '{config.model_type}' has no causal or masked language model in transformers")
    prefer_masked = masked and not (causal and getattr(config, "is_decoder", False))
    mapping = (AutoModelForMaskedLM if prefer_masked else AutoModelForCausalLM)._model_mapping
    return mapping[type(config)]


def language_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of ``config`` that its language model is built from, as AutoModelForCausalLM takes it.

    A composite (Llama 4, Qwen 3.5) whose causal class is that of its text alone is opened as such a model.
    """
    kind = type(config)
    if kind in AutoModelForCausalLM._model_mapping:
        part = kind.sub_configs.get("text_config")
        if part is not None and AutoModelForCausalLM._model_mapping[kind].config_class == part:
            text: PretrainedConfig = config.get_text_config()
            return text
    return config
