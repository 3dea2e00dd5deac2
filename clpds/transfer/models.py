"""What every method starts from: the source, the helper if there is one, the target tokenizer, what they share."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from clpds.checkpoint import Checkpoint, open_checkpoint
from clpds.errors import UserError
from clpds.recipe import Init, InitMethod
from clpds.transfer.vocabulary_swap import Role, parts, read_rows
from clpds.vocabulary.overlap import Overlap, overlap
from clpds.vocabulary.roles import special_ids
from clpds.vocabulary.tokenizer import load_tokenizer, require_same, rows_needed

# BLOOM's 250,880 rows are 2 GB, a tenth of them shared with a target.
OF_SHARED_ROWS: tuple[InitMethod, ...] = ("clp", "omp")


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
    """The source's rows by role, (V_s, c): the matrix, then a column for each bias. Those that the overlap speaks of:
    all, or for methods that look at no others the shared tokens' alone."""
    moved: dict[int, int]
    """Source id to target id of the tokens that both have; where several share a source token, the first."""

    def matrix(self, role: Role, rows: Tensor) -> Tensor:
        """``rows`` without the columns of biases."""
        return rows[:, : self.source.tensors[parts(self.source)[role][0]].shape[1]]

    def helper_matrices(self) -> dict[Role, Tensor]:
        """The helper's matrix for each of the source's roles, (V_h, p); its embedding where its head is tied.

        Raises UserError where the helper has fewer rows than its tokenizer ids.
        """
        assert self.helper is not None  # recipe.NEEDS
        own = parts(self.helper)
        read = {role: read_rows(self.helper, own[role][:1]) for role in self.rows if role in own}
        _check_height(len(read["input"]), self.target_tokenizer, self.helper.path)
        return {role: read.get(role, read["input"]) for role in self.rows}


def open_models(step: Init, source: Checkpoint) -> Models:
    """Open what ``step`` names beside the ``source`` and match the vocabularies.

    Raises UserError where the pieces do not belong together.
    """
    helper = open_checkpoint(step.helper) if step.helper else None
    target_folder = _tokenizer_folder(helper) if helper else step.tokenizer
    if target_folder is None:
        raise UserError("the target tokenizer is missing; pass --tokenizer, or --helper for a model that brings one")
    target = load_tokenizer(target_folder)
    if helper and step.tokenizer:
        require_same(target, load_tokenizer(step.tokenizer), str(step.helper), str(step.tokenizer))
    source_tokenizer = load_tokenizer(_tokenizer_folder(source))
    names = parts(source)
    _check_height(source.tensors[names["input"][0]].shape[0], source_tokenizer, step.source)
    shared, ids = overlap(source_tokenizer, target), None
    moved = dict(zip(shared.source.flip(0).tolist(), shared.target.flip(0).tolist(), strict=True))
    moved |= _same_roles(source_tokenizer, target)
    if step.method in OF_SHARED_ROWS and not step.extend:
        ids, places = shared.source.unique(return_inverse=True)  # ascending
        shared = replace(shared, source=places)
    rows = {role: read_rows(source, own, ids) for role, own in names.items()}
    return Models(source, source_tokenizer, helper, target, target_folder, shared, rows, moved)


def _same_roles(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase) -> dict[int, int]:
    """Source id to target id by role; of a token of several roles by the one that matters most."""
    ours, theirs = special_ids(target), special_ids(source)
    return {theirs[key]: ours[key] for key in reversed(ours) if key in theirs}


def _tokenizer_folder(checkpoint: Checkpoint) -> Path:
    if checkpoint.tokenizer_folder is None:
        raise UserError(f"{checkpoint.path} has no tokenizer; save the model's tokenizer in its folder")
    return checkpoint.tokenizer_folder


def _check_height(height: int, tokenizer: PreTrainedTokenizerBase, path: Path | None) -> None:
    if rows_needed(tokenizer) > height:
        raise UserError(
            f"{path}: the embedding has {height} rows, but the tokenizer ids up to {rows_needed(tokenizer) - 1}; "
            "the two do not belong together"
        )
