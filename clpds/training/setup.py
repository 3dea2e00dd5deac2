"""Before the first step: open what the stage names, check that it fits, prepare the run's folder."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from clpds import provenance
from clpds.bounds import SETTINGS
from clpds.checkpoint import Checkpoint, LazyTensor, anatomy, open_checkpoint, write_checkpoint
from clpds.checkpoint.anatomy import model_class
from clpds.checkpoint.task_head import with_classifier
from clpds.data.blocks import open_blocks
from clpds.data.order import Mixture, Samples, require_alike
from clpds.data.pairs import open_pairs
from clpds.errors import UserError
from clpds.inside import read_json
from clpds.manifest import hash_files, write_manifest
from clpds.model_counts import require_counts
from clpds.models.encoder import longest
from clpds.output import check_disk, new_folder, write_text
from clpds.recipe import LANGUAGES, Corpus, Train
from clpds.recipe.training import USED_BY_OBJECTIVE
from clpds.refusals import require_given
from clpds.resources import find
from clpds.run_folder import write_state
from clpds.tokenizer_files import copy_tokenizer
from clpds.training import BYTES_PER_PARAMETER
from clpds.training.group import agree, on_first_rank
from clpds.vocabulary.roles import special_ids
from clpds.vocabulary.tokenizer import load_tokenizer, require_same, rows_needed


@dataclass(frozen=True)
class Inputs:
    """The data of a stage, opened."""

    corpora: dict[str, Samples[Any]]
    mixture: Mixture[Any]
    validation: dict[str, Samples[Any]]
    tokenizer_folder: Path


def open_inputs(stage: Train) -> Inputs:
    """Open the mixture and the validation splits; UserError where something is missing or does not fit."""
    corpora = {name: _open(stage, corpus, "train") for name, corpus in stage.data.items()}
    weights = [corpus.weight for corpus in stage.data.values()]
    validation = {}
    if stage.validation.every is not None:
        held_out = {name: Corpus(path=path) for name, path in stage.validation.data.items()} or stage.data
        validation = {name: _open(stage, corpus, "validation") for name, corpus in held_out.items()}
        for blocks in validation.values():
            require_alike(next(iter(corpora.values())), blocks)
    mixture = Mixture(list(corpora.values()), weights, stage.seed)
    return Inputs(corpora, mixture, validation, next(iter(corpora.values())).tokenizer_folder)


def _open(stage: Train, corpus: Corpus, split: str) -> Samples[Any]:
    """Pairs for cdlm, else blocks."""
    if stage.objective == "cdlm":
        return open_pairs(corpus.path, split)
    return open_blocks(corpus.path, split, LANGUAGES.index(corpus.language))


def open_model(stage: Train, inputs: Inputs) -> Checkpoint:
    """The checkpoint to start from, on all ranks; fresh weights are drawn once and kept in the run."""
    path = stage.model
    if path.suffix == ".json":
        path = stage.out / "initial"
        on_first_rank(lambda: None if path.exists() else _draw_fresh(stage, inputs, path))
    return agree(lambda: _open_fitting(stage, inputs, path))


def identity(stage: Train, inputs: Inputs, checkpoint: Checkpoint) -> dict[str, Any]:
    """What a resumed run must share with its checkpoint for training to go on where it stopped.

    Model and data by content where that is recorded, so that a folder may move.
    """
    record = provenance.read(checkpoint.path) if checkpoint.path else None
    return {
        "model": record["files"] if record else str(stage.model),
        "data": {name: [blocks.fingerprint, stage.data[name].weight] for name, blocks in inputs.corpora.items()},
        **({"language": foreign} if (foreign := _of_the_source(stage)) else {}),
        "objective": stage.objective,
        **{name: getattr(stage, name) for name, users in USED_BY_OBJECTIVE.items() if stage.objective in users},
        "trainable": list(stage.trainable),
        "global_batch": stage.global_batch,
        "isolate_documents": stage.isolate_documents,
        "seed": stage.seed,
    }


def _of_the_source(stage: Train) -> list[str]:
    """The corpora in the source's language."""
    return [name for name, corpus in stage.data.items() if corpus.language == "source"]


def prepare_run(stage: Train, checkpoint: Checkpoint) -> None:
    """Make the run's folder, with all that ``clpds convert`` needs beside DeepSpeed's files."""

    def make() -> None:
        folder = stage.out / "model"
        (stage.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        size = sum(tensor.numel for tensor in checkpoint.tensors.values()) * BYTES_PER_PARAMETER
        check_disk(stage.out / "checkpoints" / "next", size)
        if not folder.exists():
            with new_folder(folder) as partial:
                config = copy.deepcopy(checkpoint.config)
                config.architectures = [model_class(config).__name__]
                config.save_pretrained(partial)
                if checkpoint.generation_config is not None:
                    checkpoint.generation_config.save_pretrained(partial)
                copy_tokenizer(checkpoint.tokenizer_folder, partial)
                write_manifest(partial, hash_files(sorted(partial.iterdir())))
        write_text(stage.out / "stage.json", json.dumps(provenance.parameters(stage), indent=2) + "\n")
        write_state(stage.out, "training")

    on_first_rank(make)


def _open_fitting(stage: Train, inputs: Inputs, path: Path) -> Checkpoint:
    """Open a checkpoint whose vocabulary, positions and attention suit the data."""
    checkpoint = open_checkpoint(path)
    config = checkpoint.config.get_text_config()
    kind = anatomy(checkpoint.config)
    classifies = kind.model_class.__name__.endswith("ForSequenceClassification")
    if not kind.has_head and not (classifies and stage.objective == "classification"):
        raise UserError(f"{path} is a {kind.model_class.__name__}, which has no head that predicts tokens")
    data_tokenizer = load_tokenizer(inputs.tokenizer_folder)
    if checkpoint.tokenizer_folder is not None:
        model_tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
        require_same(model_tokenizer, data_tokenizer, str(path), str(inputs.tokenizer_folder))
    if rows_needed(data_tokenizer) > config.vocab_size:
        needed = rows_needed(data_tokenizer)
        raise UserError(f"{path} has {config.vocab_size} rows, but the tokenizer of the data needs {needed}")
    length, positions = inputs.mixture.sequence_length, longest(kind.model)
    if positions is not None and length > positions:
        raise UserError(f"the data has blocks of {length} tokens, but {path} has only {positions} positions")
    if stage.objective == "classification" and not classifies:
        return with_classifier(checkpoint, inputs.mixture.corpora[0].classes, stage.seed)
    return checkpoint


def _draw_fresh(stage: Train, inputs: Inputs, out: Path) -> None:
    """Write a model with random weights, the config's own initialisation, drawn from the seed."""
    tokenizer = load_tokenizer(inputs.tokenizer_folder)
    file = find("recipes", stage.model)
    try:
        require_counts(read_json(file, SETTINGS))
        config = AutoConfig.from_pretrained(file, trust_remote_code=False)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # as in clpds.checkpoint.open
        require_given(file, error)
        raise UserError(f"{file} is no model config: {' '.join(str(error).split())}") from error
    config.get_text_config().vocab_size = rows_needed(tokenizer)
    for name, number in special_ids(tokenizer).items():
        setattr(config.get_text_config(), name, number)
    torch.manual_seed(stage.seed)
    weights = model_class(config)(config).state_dict()
    fresh = Checkpoint(
        tensors={name: LazyTensor.of(weights[name], str(stage.model)) for name in anatomy(config).shapes},
        config=config,
        generation_config=GenerationConfig.from_model_config(config),
        tokenizer_folder=inputs.tokenizer_folder,
    )
    card = f"Random weights of `{stage.model.name}`, seed {stage.seed}: where a run of clpds started.\n"
    write_checkpoint(fresh, out, stage, inputs={"config": file}, card=card)
