"""The verb init: open the models, make the new rows, say how good they are, write the checkpoint."""

import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from clpds.allocator import give_back_freed_memory, keep_freed_memory
from clpds.checkpoint import Checkpoint, LazyTensor, open_checkpoint, write_checkpoint
from clpds.recipe import Init
from clpds.sharing import World, claimed_by_first, shared
from clpds.transfer import summary
from clpds.transfer.choose import Choice
from clpds.transfer.clp import helper_space
from clpds.transfer.condition import Condition, condition, share_cancelling
from clpds.transfer.extension import extend_vocabulary
from clpds.transfer.growth import Grown, grow, grow_source, growth_of
from clpds.transfer.methods import find
from clpds.transfer.minimodel_step import BY_DEPTH
from clpds.transfer.models import Models, open_models
from clpds.transfer.trilayer import insert_trilayer, merge, require_middle
from clpds.transfer.vocabulary_swap import Role, swap_vocabulary
from clpds.vocabulary.roles import special_ids
from clpds.vocabulary.tokenizer import load_tokenizer, misread, require_same

INPUTS = (
    "source", "helper", "tokenizer", "embeddings", "source_embeddings", "target_embeddings", "dictionary", "lower",
)  # fmt: skip
SPARE = 2**28  # bytes


@dataclass(frozen=True)
class Made:
    """The new model and what is to be told of it."""

    result: Checkpoint
    card: str
    facts: dict[str, Any]
    held: dict[str, LazyTensor] = field(default_factory=dict)
    """Those of the tensors that are not made from the source's files alone."""


def init(step: Init) -> None:
    """Write the model ``step.out``: the source's body under the target tokenizer, its rows by ``step.method``.

    Where a size is given the source is grown first; ``grow`` does nothing else and keeps the vocabulary, and so do
    ``merge`` and the methods of mini-model adaptation but ``plug``, which takes it from ``step.embeddings``. A
    TRILayer comes last.
    Of the ranks of an MPI launcher the first makes the rows; all write the source's tensors.
    Raises UserError, with nothing written, for options that do not fit together, a helper of another
    tokenizer, a matrix that is too small for its tokenizer, sizes that a model cannot have, NaN or infinity, and
    no overlap at all.
    """
    keep_freed_memory(SPARE)  # growing to 3.2 GB: 19.0 s became 15.5, `clp` at width 1,024: 11.0 became 10.1
    with shared() as world, claimed_by_first(world, step):
        made = world.agree(lambda: make(step) if world.rank == 0 else None)
        result, held = _on_all_ranks(world, step, made)
        give_back_freed_memory()
        write_checkpoint(
            result,
            step.out,
            step,
            inputs={name: getattr(step, name) for name in INPUTS}
            | {f"text {number}": path for number, path in enumerate(step.text, 1)},
            card=made.card if made else "",
            dtype=getattr(torch, step.dtype) if step.dtype else None,
            max_shard_size=step.max_shard_size,
            overwrite=step.overwrite,
            keep_files=True,
            link=step.link,
            world=world,
            held=held,
            **(made.facts if made else {}),
        )
        if made:
            _tell(step, made.result)


def make(step: Init) -> Made:
    """The new model with its rows, and on the screen how good they are; nothing is written."""
    source, grown = open_checkpoint(step.source), None
    if step.grows:
        grown = grow_source(step, source)
        source = grown.source
        summary.show_growth(grown)
    if step.makes_trilayer:
        require_middle(source)
    if step.method == "merge":
        made = _merged(step, source)
    elif step.method == "grow":
        assert grown is not None  # Init needs a size then
        made = Made(source, summary.grown_card(step, grown), {})
    elif step.method in BY_DEPTH:
        result, how = BY_DEPTH[step.method](step, source)
        made = Made(result, summary.remade_card(step, how, grown), {})
    else:
        made = _swapped(step, source, grown)
    own = {} if _in_memory(step.source) else source.tensors
    held = {name: tensor for name, tensor in made.result.tensors.items() if tensor is not own.get(name)}
    growth = {"growth": grown.facts()} if grown else {}
    return replace(made, held=held, facts=made.facts | growth)


def _merged(step: Init, upper: Checkpoint) -> Made:
    """The upper half of the source over the lower half of ``step.lower``."""
    assert step.lower is not None  # recipe.NEEDS
    lower = open_checkpoint(step.lower)
    result = merge(lower, upper)
    if lower.tokenizer_folder is not None and upper.tokenizer_folder is not None:
        tokenizers = load_tokenizer(lower.tokenizer_folder), load_tokenizer(upper.tokenizer_folder)
        require_same(*tokenizers, str(step.lower), str(step.source))
    return Made(result, summary.merged_card(step), {})


def _swapped(step: Init, source: Checkpoint, grown: Grown | None) -> Made:
    """The source under the target's vocabulary."""
    models = open_models(step, source)
    shared = models.shared
    summary.show_overlap(shared)
    found = find(step, models)
    give_back_freed_memory()  # here, after each matrix and before writing: 2.3 to 2.6 GiB of a 7B became 2.3
    rows = {}
    for role, old in models.rows.items():
        rows[role] = found.rows(old, role)
        give_back_freed_memory()
    conditions = _conditions(models, rows, found.choice)
    summary.show_rows(conditions, found.choice)
    facts: dict[str, Any] = {"overlap": {**shared.how, "new": len(shared.missing)}}
    facts["condition"] = {role: asdict(numbers) for role, numbers in conditions.items()}
    if step.extend:
        result, facts["extension"] = extend_vocabulary(models, rows, pad_to=step.pad_to)
        summary.show_extension(**facts["extension"])
    else:
        result = swap_vocabulary(
            models.source,
            rows,
            used=torch.cat([shared.target, shared.missing]),
            special_ids=special_ids(models.target_tokenizer),
            tokenizer_folder=models.target_folder,
            moved=models.moved,
            pad_to=step.pad_to,
        )
    if step.makes_trilayer:
        result = insert_trilayer(result, seed=step.seed, keep_head=step.keep_head)
    return Made(result, summary.card(step, shared, result, found.how, grown), facts | found.facts)


def _on_all_ranks(world: World, step: Init, made: Made | None) -> tuple[Checkpoint, Collection[str]]:
    """Rank 0's model on every rank, and the names of those tensors that rank 0 alone can load."""

    def outline() -> tuple[PretrainedConfig, dict[str, LazyTensor], list[str]]:
        assert made is not None  # on rank 0
        held = {name: replace(tensor, load=_on_rank_0_only, rows=None) for name, tensor in made.held.items()}
        return made.result.config, held, list(made.result.tensors)

    config, held, names = world.on_first(outline)
    own = world.agree(lambda: {} if made or _in_memory(step.source) else _source_tensors(step))
    return made.result if made else Checkpoint({name: (own | held)[name] for name in names}, config), held


def _source_tensors(step: Init) -> dict[str, LazyTensor]:
    source = open_checkpoint(step.source)
    return dict((grow(source, growth_of(step)) if step.grows else source).tensors)


def _on_rank_0_only() -> Tensor:
    raise RuntimeError("this tensor is on rank 0")


def _in_memory(source: Path) -> bool:
    """Whether opening ``source`` holds all of it in memory, which one rank should do only."""
    return source.suffix == ".gguf"


def _tell(step: Init, result: Checkpoint) -> None:
    summary.show_written(step.out, result)
    if result.tokenizer_folder is not None and (difference := misread(step.out)) is not None:
        sys.stderr.write(
            f"clpds init: warning: AutoTokenizer opens {step.out} with the tokenizer class of "
            f"{result.config.model_type} models, not as tokenizer.json has it ({difference}); "
            "open it with PreTrainedTokenizerFast\n"
        )


def _conditions(models: Models, rows: dict[Role, Tensor], choice: Choice | None) -> dict[Role, Condition]:
    """The condition of each new matrix; none where too few rows are new to have one."""
    if len(models.shared.missing) < 2:
        return {}
    conditions = {}
    for role, old in models.rows.items():
        cancelling = 0.0
        if choice and choice.variant.kind == "published":  # here: the space is gone again where memory is highest
            helper, center = choice.helper[role], choice.variant.center
            cancelling = share_cancelling(helper_space(helper, models.shared, center=center))
        new = models.matrix(role, rows[role])
        conditions[role] = condition(models.shared, models.matrix(role, old), new, cancelling=cancelling)
    return conditions
