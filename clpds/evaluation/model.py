"""The model to evaluate: opened, checked against its tokenizer, loaded."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from clpds.checkpoint import Checkpoint, anatomy, open_checkpoint
from clpds.errors import UserError
from clpds.models.layout import continues_text
from clpds.vocabulary.tokenizer import load_tokenizer, rows_needed


def open_model(path: Path) -> Checkpoint:
    """Open a model's checkpoint; UserError for a training run."""
    if (path / "stage.json").is_file():
        raise UserError(f"{path} is a training run; make a model of it with `clpds convert {path} OUT`")
    return open_checkpoint(path)


def is_masked(checkpoint: Checkpoint) -> bool:
    """Whether the model fills gaps instead of going on with a text."""
    found = anatomy(checkpoint.config)
    switched_off = found.model.can_generate() and not continues_text(found.model)
    return found.model_class.__name__.endswith("ForMaskedLM") or switched_off


def load_model(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model with its weights, in the dtype they are stored in, on the GPU if there is one."""
    state_dict = {name: tensor.load() for name, tensor in checkpoint.tensors.items()}
    model_class = anatomy(checkpoint.config).model_class
    model = model_class.from_pretrained(None, config=checkpoint.config, state_dict=state_dict, dtype="auto")
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def tokenizer_folder(checkpoint: Checkpoint) -> Path:
    """Where the model's tokenizer is; UserError where there is none or it has more tokens than the model rows."""
    folder = checkpoint.tokenizer_folder
    if folder is None:
        raise UserError(f"{checkpoint.path} has no tokenizer; copy its files there")
    need = rows_needed(load_tokenizer(folder))
    have = checkpoint.tensors[anatomy(checkpoint.config).input_embedding].shape[0]
    if need > have:
        raise UserError(f"{checkpoint.path}: the tokenizer needs {need:,} embedding rows, the model has {have:,}")
    return folder
