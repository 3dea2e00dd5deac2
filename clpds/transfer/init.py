"""The verb init: open the models, make the new rows, say how good they are, write the checkpoint."""

import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from clpds.checkpoint import Checkpoint, LazyTensor, open_checkpoint, write_checkpoint
from clpds.errors import UserError
from clpds.output import check_free
from clpds.recipe import Init
from clpds.sharing import World, shared
from clpds.transfer import summary
from clpds.transfer.baselines import mean_rows, random_rows, segment, subpiece_rows
from clpds.transfer.choose import Choice, best, grid, rank
from clpds.transfer.clp import Variant, clp, helper_space
from clpds.transfer.condition import Condition, condition
from clpds.transfer.vocabulary_swap import Role, Rows, parts, read_rows, swap_vocabulary
from clpds.vocabulary.overlap import Overlap, overlap
from clpds.vocabulary.roles import special_ids
from clpds.vocabulary.tokenizer import load_tokenizer, misread, require_same, rows_needed


@dataclass(frozen=True)
class Models:
    """What a method starts from."""

    source: Checkpoint
    source_tokenizer: PreTrainedTokenizerBase
    helper: Checkpoint | None
    target_tokenizer: PreTrainedTokenizerBase
    target_folder: Path
    shared: Overlap
    rows: dict[Role, Tensor]
    """The source's rows by role, (V_s, c): the matrix, then a column for each bias."""

    def matrix(self, role: Role, rows: Tensor) -> Tensor:
        """``rows`` without the columns of biases."""
        return rows[:, : self.source.tensors[parts(self.source)[role][0]].shape[1]]


@dataclass(frozen=True)
class Made:
    """The new model and what is to be told of it."""

    result: Checkpoint
    held: dict[str, LazyTensor]
    """Those of the tensors that are not read from the source's files."""
    card: str
    facts: dict[str, Any]


def init(step: Init) -> None:
    """Write the model ``step.out``: the source's body under the target tokenizer, its rows by ``step.method``.

    Of the ranks of an MPI launcher the first makes the rows; all write the source's tensors.
    Raises UserError, with nothing written, for options that do not fit together, a helper of another
    tokenizer, a matrix that is too small for its tokenizer, NaN or infinity, and no overlap at all.
    """
    with shared() as world:
        made = world.agree(lambda: _make(step) if world.rank == 0 else None)
        result, held = _on_all_ranks(world, step.source, made)
        write_checkpoint(
            result,
            step.out,
            step,
            inputs={"source": step.source, "helper": step.helper, "tokenizer": step.tokenizer},
            card=made.card if made else "",
            dtype=getattr(torch, step.dtype) if step.dtype else None,
            max_shard_size=step.max_shard_size,
            overwrite=step.overwrite,
            world=world,
            held=held,
            **(made.facts if made else {}),
        )
        if made:
            _tell(step, made.result)


def _make(step: Init) -> Made:
    """The new model with its rows, and on the screen how good they are."""
    _check_options(step)
    models = _open(step)
    shared = models.shared
    summary.show_overlap(shared)
    choice = _choose(step, models) if step.method == "clp" else None
    method = clp(shared, choice.variant, choice.helper) if choice else _baseline(step, models)
    rows = {role: method(old, role) for role, old in models.rows.items()}
    conditions = _conditions(models, rows, choice)
    summary.show_rows(conditions, choice)
    result = swap_vocabulary(
        models.source,
        rows,
        used=torch.cat([shared.target, shared.missing]),
        special_ids=special_ids(models.target_tokenizer),
        tokenizer_folder=models.target_folder,
        pad_to=step.pad_to,
    )
    facts: dict[str, Any] = {"overlap": {**shared.how, "new": len(shared.missing)}}
    facts["condition"] = {role: asdict(numbers) for role, numbers in conditions.items()}
    if choice:
        facts |= {"weighting": asdict(choice.variant), "ranking": [score.facts() for score in choice.scores]}
    own = {} if _in_memory(step.source) else models.source.tensors
    held = {name: tensor for name, tensor in result.tensors.items() if tensor is not own.get(name)}
    return Made(result, held, summary.card(step, shared, result, choice), facts)


def _on_all_ranks(world: World, source: Path, made: Made | None) -> tuple[Checkpoint, Collection[str]]:
    """Rank 0's model on every rank, and the names of those tensors that rank 0 alone can load."""

    def outline() -> tuple[PretrainedConfig, dict[str, LazyTensor]]:
        assert made is not None  # on rank 0
        held = {name: replace(tensor, load=_on_rank_0_only, rows=None) for name, tensor in made.held.items()}
        return made.result.config, held

    config, held = world.on_first(outline)
    own = world.agree(lambda: {} if made or _in_memory(source) else open_checkpoint(source).tensors)
    return made.result if made else Checkpoint({**own, **held}, config), held


def _on_rank_0_only() -> Tensor:
    raise RuntimeError("this tensor is on rank 0")


def _in_memory(source: Path) -> bool:
    """Whether opening ``source`` holds all of it in memory, which one rank should do only."""
    return source.suffix == ".gguf"


def _tell(step: Init, result: Checkpoint) -> None:
    summary.show_written(step.out, result)
    if (difference := misread(step.out)) is not None:
        sys.stderr.write(
            f"clpds init: warning: AutoTokenizer opens {step.out} with the tokenizer class of "
            f"{result.config.model_type} models, not as tokenizer.json has it ({difference}); "
            "open it with PreTrainedTokenizerFast\n"
        )


def _check_options(step: Init) -> None:
    check_free(step.out, overwrite=step.overwrite)
    if step.method == "clp" and step.helper is None:
        raise UserError("--method clp needs --helper, a small model of the target language with the target tokenizer")


def _open(step: Init) -> Models:
    helper = open_checkpoint(step.helper) if step.helper else None
    target_folder = _tokenizer_folder(helper) if helper else step.tokenizer
    if target_folder is None:
        raise UserError("the target tokenizer is missing; pass --tokenizer, or --helper for a model that brings one")
    target = load_tokenizer(target_folder)
    if helper and step.tokenizer:
        require_same(target, load_tokenizer(step.tokenizer), str(step.helper), str(step.tokenizer))
    source = open_checkpoint(step.source)
    source_tokenizer = load_tokenizer(_tokenizer_folder(source))
    rows = {role: read_rows(source, names) for role, names in parts(source).items()}
    _check_height(rows["input"], source_tokenizer, step.source)
    return Models(source, source_tokenizer, helper, target, target_folder, overlap(source_tokenizer, target), rows)


def _choose(step: Init, models: Models) -> Choice:
    """Rank the weightings and take the one asked for, or the best for ``auto``."""
    shared, helper = models.shared, models.helper
    assert helper is not None  # _check_options
    if len(shared.target) - shared.how["special"] < 2:
        raise UserError(
            f"{step.source} and {step.helper} have no overlap: no text is a token of both; try --method mean"
        )
    own = parts(helper)
    matrices = {role: read_rows(helper, own.get(role, own["input"])[:1]) for role in models.rows}
    _check_height(matrices["input"], models.target_tokenizer, helper.path)
    asked, variants = None, grid()
    if step.weighting != "auto":
        asked = Variant(step.weighting, step.neighbours, step.temperature, step.ridge, step.center)
        variants = list(dict.fromkeys([asked, *variants]))
    source = {role: models.matrix(role, rows) for role, rows in models.rows.items()}
    scores = rank(shared, source, matrices, seed=step.seed, variants=variants)
    chosen = asked or best(scores).variant
    assert chosen is not None  # best() passes over the mean row
    return Choice(chosen, scores, matrices)


def _baseline(step: Init, models: Models) -> Rows:
    if step.method == "random":
        return random_rows(models.shared, step.seed)
    if step.method == "mean":
        return mean_rows(models.shared)
    missing = models.shared.missing.tolist()
    return subpiece_rows(models.shared, segment(models.source_tokenizer, models.target_tokenizer, missing))


def _conditions(models: Models, rows: dict[Role, Tensor], choice: Choice | None) -> dict[Role, Condition]:
    """The condition of each new matrix; none where too few rows are new to have one."""
    if len(models.shared.missing) < 2:
        return {}
    conditions = {}
    for role, old in models.rows.items():
        published = None
        if choice and choice.variant.kind == "published":
            published = helper_space(choice.helper[role], models.shared, center=choice.variant.center)
        conditions[role] = condition(
            models.shared, models.matrix(role, old), models.matrix(role, rows[role]), published
        )
    return conditions


def _tokenizer_folder(checkpoint: Checkpoint) -> Path:
    if checkpoint.tokenizer_folder is None:
        raise UserError(f"{checkpoint.path} has no tokenizer; save the model's tokenizer in its folder")
    return checkpoint.tokenizer_folder


def _check_height(matrix: Tensor, tokenizer: PreTrainedTokenizerBase, path: Path | None) -> None:
    if rows_needed(tokenizer) > len(matrix):
        raise UserError(
            f"{path}: the embedding has {len(matrix)} rows, but the tokenizer ids up to {rows_needed(tokenizer) - 1}; "
            "the two do not belong together"
        )
