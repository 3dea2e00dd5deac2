"""Before the first step: open what the stage names, check that it fits, prepare the run's folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clpds import provenance
from clpds.checkpoint import Checkpoint, anatomy, open_checkpoint
from clpds.checkpoint.task_head import with_classifier
from clpds.data.blocks import open_blocks
from clpds.data.order import Mixture, Samples, require_alike
from clpds.data.pairs import open_pairs
from clpds.errors import UserError
from clpds.models.encoder import longest
from clpds.output import check_disk, write_text
from clpds.recipe import LANGUAGES, Corpus, Train
from clpds.recipe.training import USED_BY_OBJECTIVE
from clpds.run_folder import INITIAL, STAGE, write_state
from clpds.training import BYTES_PER_PARAMETER, fresh
from clpds.training.group import agree, on_first_rank
from clpds.training.kernels import choose_attention
from clpds.training.model_folder import write_model_folder
from clpds.training.model_identity import model_identity, precision
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
    """The model to start from, on all ranks; of one that is to be drawn the weights come with ``with_weights``."""
    if is_drawn(stage):
        return agree(lambda: _fitting(stage, inputs, fresh.outline(stage, inputs.tokenizer_folder), stage.model))
    return agree(lambda: _fitting(stage, inputs, open_checkpoint(stage.model), stage.model))


def with_weights(stage: Train, inputs: Inputs, checkpoint: Checkpoint) -> Checkpoint:
    """``checkpoint`` itself, or where it is drawn, what the run's ``initial`` then has; the run is taken."""
    if not is_drawn(stage):
        return checkpoint
    path = stage.out / INITIAL
    on_first_rank(lambda: fresh.draw(stage, fresh.outline(stage, inputs.tokenizer_folder), path))
    drawn = agree(lambda: _fitting(stage, inputs, open_checkpoint(path), path))
    agree(lambda: choose_attention(drawn.config, stage.attention))
    return drawn


def is_drawn(stage: Train) -> bool:
    """Whether the stage starts from a config and not from weights."""
    return stage.model.suffix == ".json"


def identity(stage: Train, inputs: Inputs, checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a resumed run must share with its checkpoint for training to go on where it stopped; plain JSON.

    Model and data by content, so that folders may move; ``config`` is DeepSpeed's. Rank 0 alone calls it.
    """
    source = [name for name, corpus in stage.data.items() if corpus.language == "source"]
    return {
        "model": model_identity(checkpoint, inputs.tokenizer_folder, drawn=is_drawn(stage)),
        "data": {name: [blocks.fingerprint, stage.data[name].weight] for name, blocks in inputs.corpora.items()},
        **({"language": source} if source else {}),
        "objective": stage.objective,
        **{name: getattr(stage, name) for name, users in USED_BY_OBJECTIVE.items() if stage.objective in users},
        "trainable": list(stage.trainable),
        "global_batch": stage.global_batch,
        "isolate_documents": stage.isolate_documents,
        "seed": stage.seed,
        "precision": precision(config),
    }


def prepare_run(stage: Train, checkpoint: Checkpoint) -> None:
    """Make the run's folder, with all that ``clpds convert`` needs beside DeepSpeed's files."""

    def make() -> None:
        (stage.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        size = sum(tensor.numel for tensor in checkpoint.tensors.values()) * BYTES_PER_PARAMETER
        check_disk(stage.out / "checkpoints" / "next", size)
        write_model_folder(stage.out, checkpoint)
        write_text(stage.out / STAGE, json.dumps(provenance.parameters(stage), indent=2) + "\n")
        write_state(stage.out, "training")

    on_first_rank(make)


def _fitting(stage: Train, inputs: Inputs, checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """A checkpoint whose vocabulary, positions and head suit the data, with a classifier where it lacks one."""
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
