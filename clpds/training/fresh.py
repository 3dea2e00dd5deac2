"""A model with random weights, drawn from a config and a seed into the run's ``initial``."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from clpds import provenance
from clpds.bounds import SETTINGS
from clpds.checkpoint import Checkpoint, LazyTensor, anatomy, write_checkpoint
from clpds.checkpoint.anatomy import language_config, model_class
from clpds.checkpoint.open import open_without_weights
from clpds.errors import UserError
from clpds.inside import read_json
from clpds.model_counts import require_counts
from clpds.recipe import Train
from clpds.refusals import require_given
from clpds.resources import find
from clpds.training.model_identity import config_identity, tokenizer_identity
from clpds.vocabulary.roles import special_ids
from clpds.vocabulary.tokenizer import load_tokenizer, rows_needed


def outline(stage: Train, tokenizer_folder: Path) -> Checkpoint:
    """The model that ``stage.model``, a config, describes for this tokenizer: its tensors have shapes, but no values.

    UserError where the file is no model config.
    """
    config = _config(stage, tokenizer_folder)
    try:
        shapes = anatomy(config).shapes
    except UserError as error:
        raise UserError(f"{stage.model}: {error}") from error
    except Exception as error:  # whatever a model class makes of values that do not fit together
        reason = " ".join(str(error).split())
        raise UserError(f"{stage.model} describes no model that transformers can build: {reason[:200]}") from error
    return Checkpoint(
        tensors={name: LazyTensor(shape, torch.float32, _not_drawn) for name, shape in shapes.items()},
        config=config,
        generation_config=GenerationConfig.from_model_config(config),
        tokenizer_folder=tokenizer_folder,
    )


def draw(stage: Train, described: Checkpoint, out: Path) -> None:
    """Write the model ``described`` into ``out``, the config's own initialisation, drawn from the seed.

    What is there stays where it is just that, and is replaced where it is another; UserError where the folder holds
    files that clpds did not write.
    """
    if out.exists() and _is_drawn(stage, described, out):
        return
    config = described.config
    torch.manual_seed(stage.seed)
    weights = model_class(config)(config).state_dict()
    tensors = {name: LazyTensor.of(weights[name], str(stage.model)) for name in described.tensors}
    card = f"Random weights of `{stage.model.name}`, seed {stage.seed}: where a run of clpds started.\n"
    file = find("recipes", stage.model)
    write_checkpoint(described.derive(replaced=tensors), out, stage, inputs={"config": file}, card=card, overwrite=True)


def _is_drawn(stage: Train, described: Checkpoint, folder: Path) -> bool:
    try:
        record = provenance.read(folder)
        there = open_without_weights(folder)[0]
    except UserError:
        return False
    if record is None or record.get("parameters", {}).get("seed") != stage.seed:
        return False
    wanted, found = described.tokenizer_folder, there.tokenizer_folder
    if wanted is None or found is None or tokenizer_identity(wanted) != tokenizer_identity(found):
        return False
    return config_identity(described.config) == config_identity(there.config)


def _config(stage: Train, tokenizer_folder: Path) -> PretrainedConfig:
    tokenizer = load_tokenizer(tokenizer_folder)
    file = find("recipes", stage.model)
    try:
        require_counts(read_json(file, SETTINGS))
        config: PretrainedConfig = AutoConfig.from_pretrained(file, trust_remote_code=False)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # as in clpds.checkpoint.open
        require_given(file, error)
        raise UserError(f"{file} is no model config: {' '.join(str(error).split())}") from error
    config.get_text_config().vocab_size = rows_needed(tokenizer)
    for name, number in special_ids(tokenizer).items():
        setattr(config.get_text_config(), name, number)
    return language_config(config)


def _not_drawn() -> Tensor:
    raise RuntimeError("the weights of a config are there once `draw` has drawn them")
