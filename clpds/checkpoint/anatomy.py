"""What a model class says of its tensors, found on the meta device rather than listed by name."""

import copy
from dataclasses import dataclass

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from clpds.errors import UserError
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
    vocabulary: tuple[str, ...]
    """All of ``shapes`` whose first dimension is the vocabulary: both matrices and the head's biases."""

    @property
    def model_class(self) -> type[PreTrainedModel]:
        return type(self.model)


def anatomy(config: PretrainedConfig) -> Anatomy:
    """Build the model class twice on the meta device, with V and V + 1 words, and compare.

    A tensor whose first dimension moved belongs to the vocabulary, whatever its name. Costs
    milliseconds and no memory. Raises UserError where the config has no language-model class.
    """
    model = meta_model(config)
    if model.config.is_encoder_decoder:
        raise UserError(
            f"{type(model).__name__} is an encoder-decoder, which writes a text from another; give a causal or masked "
            "language model"
        )
    wider = copy.deepcopy(config)
    text = wider.get_text_config()
    text.vocab_size += 1
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
        vocabulary=tuple(name for name, tensor in held.items() if wider_shapes[name] != tuple(tensor.shape)),
    )


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model of this config without memory for its weights."""
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
