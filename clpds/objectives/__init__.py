"""What a training stage predicts, and the loss of it.

An objective is a small value with the methods of ``Objective``; the loop knows nothing else of it. To add one: a file
here, its name in ``Train.objective`` (``recipe/training.py``) and a line in ``objective_of``.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from clpds.data.order import Samples
from clpds.errors import UserError
from clpds.objectives.causal import Causal
from clpds.objectives.cdlm import Cdlm
from clpds.objectives.classification import Classification
from clpds.objectives.masked import Masked
from clpds.objectives.minijoint import MiniJointMasked
from clpds.recipe import Train
from clpds.vocabulary.tokenizer import load_tokenizer

B = TypeVar("B", bound=tuple[Tensor, ...])


class Objective(Protocol[B]):
    """The loop's whole view of an objective."""

    @property
    def every_token(self) -> bool:
        """Whether all tokens of a text are predicted, so that the sum of losses is the text's length in nats."""

    def check(self, model: nn.Module) -> None:
        """Raise UserError for a model that this cannot train; all ranks call it, with the engine."""

    def prepare(self, batch: B, samples: Sequence[int], seed: int) -> B:
        """The blocks as they go to the device, on the CPU before they do.

        Row i is a function of the block, of ``samples[i]``, its number in the mixture, and of ``seed``: the same for
        any number of ranks and size of micro batch, and after a resume.
        """

    def count(self, batch: B) -> int:
        """How many predictions the loss of a prepared batch adds up."""

    def loss_sum(self, model: nn.Module, batch: B) -> Tensor:
        """The losses of these predictions in nats, added up (float32 scalar); ``model`` may be an engine."""


def objective_of(stage: Train, data: Samples[Any]) -> Objective[Any]:
    """The objective that the stage names; UserError where the data or its tokenizer does not suit it."""
    if bool(data.classes) != (stage.objective == "classification"):
        kind = "labelled texts, for" if data.classes else "texts without labels (`clpds data --label-key`), not for"
        raise UserError(f"{data.folder} holds {kind} the objective classification; here it is {stage.objective}")
    if stage.objective == "classification":
        return Classification(data.classes)
    if stage.objective == "causal":
        return Causal(stage.isolate_documents, data.single, stage.micro_batch)
    vocabulary = load_tokenizer(data.tokenizer_folder), stage.mask_share, str(data.tokenizer_folder)
    blocks: dict[str, Any] = {"single": data.single, "micro_batch": stage.micro_batch}
    if stage.objective == "minijoint":
        return MiniJointMasked.of(*vocabulary, mini_weight=stage.mini_weight, **blocks)
    masked = Masked.of(*vocabulary, **blocks)
    return Cdlm(masked) if stage.objective == "cdlm" else masked
