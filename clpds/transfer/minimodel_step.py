"""The methods of mini-model adaptation in the verb init: from its options to the new checkpoint, and a sentence."""

from collections.abc import Callable

from clpds.checkpoint import Checkpoint, open_checkpoint
from clpds.recipe import Init, InitMethod
from clpds.transfer.minimodel import add_middle_head, is_joint, mini_model, plug, primary


def _minijoint(step: Init, source: Checkpoint) -> tuple[Checkpoint, str]:
    assert step.take is not None  # recipe.NEEDS
    return add_middle_head(source, step.take), f"A second head after layer {step.take}, a copy of the first."


def _primary(step: Init, source: Checkpoint) -> tuple[Checkpoint, str]:
    return primary(source), "The middle head was removed."


def _minimodel(step: Init, source: Checkpoint) -> tuple[Checkpoint, str]:
    assert step.take is not None  # recipe.NEEDS
    made = mini_model(source, step.take, new_layers=step.new_layers, new_from=step.new_from, seed=step.seed)
    head = "the middle head" if is_joint(source) and not step.new_layers else "the head"
    if step.new_layers:
        head = f"{step.new_layers} new layers ({step.new_from}) and {head}"
    return made, f"The embeddings and the lowest {step.take} layers, with {head} on top."


def _plug(step: Init, source: Checkpoint) -> tuple[Checkpoint, str]:
    assert step.embeddings is not None  # recipe.NEEDS
    made = plug(source, open_checkpoint(step.embeddings))
    return made, f"The embeddings and the tokenizer are those of `{step.embeddings.name}`, learnt under a mini-model."


BY_DEPTH: dict[InitMethod, Callable[[Init, Checkpoint], tuple[Checkpoint, str]]] = {
    "minijoint": _minijoint,
    "primary": _primary,
    "minimodel": _minimodel,
    "plug": _plug,
}
