"""A classifier on top of a language model's body, as a function from checkpoint to checkpoint."""

import copy
from collections.abc import Sequence

import torch
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PretrainedConfig

from clpds.checkpoint.anatomy import anatomy
from clpds.checkpoint.lazy import Checkpoint, LazyTensor
from clpds.errors import UserError


def with_classifier(source: Checkpoint, classes: Sequence[str], seed: int) -> Checkpoint:
    """The body of ``source`` under a fresh classifier of ``classes``, its language-model head left out.

    What the body does not have is drawn as transformers draws it: matrices from the normal distribution with the
    config's ``initializer_range``, biases zero. Raises UserError for a model type without such a class, and for
    one that goes on with a text.
    """
    config = _config(source.config, classes)
    found = anatomy(config)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in found.shapes.items():
        if name in source.tensors:
            tensors[name] = source.tensors[name]
            continue
        values = torch.zeros(shape)
        if len(shape) > 1:
            values.normal_(0, config.initializer_range, generator=generator)
        tensors[name] = LazyTensor.of(values.to(source.tensors[found.input_embedding].dtype), f"the fresh {name}")
    return Checkpoint(tensors, config, None, source.tokenizer_folder, source.path, source.keep_alive)


def _config(config: PretrainedConfig, classes: Sequence[str]) -> PretrainedConfig:
    kind = type(config)
    if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or not anatomy(config).model_class.__name__.endswith(
        "ForMaskedLM"
    ):
        raise UserError(f"{config.model_type} models get no classifier here; take an encoder such as BERT or RoBERTa")
    config = copy.deepcopy(config)
    config.architectures = [MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[kind].__name__]
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}
    config.problem_type = "single_label_classification"
    return config
