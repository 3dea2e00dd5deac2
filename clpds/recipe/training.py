"""A training stage: what is trained, on what, for how long."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clpds.recipe.fields import Amount, Checked, Count, MaybeCount, NotNegative, Positive

LANGUAGES = ("source", "target")  # as the rows of a TRILayer model's table
# Options of Train that some objectives use and others would ignore.
USED_BY_OBJECTIVE: dict[str, tuple[str, ...]] = {
    "mask_share": ("masked", "minijoint", "cdlm"),
    "mini_weight": ("minijoint",),
}


@dataclass(frozen=True, kw_only=True)
class Corpus(Checked):
    """One prepared data set of a mixture."""

    path: Path
    """Folder written by `clpds data`, or for cdlm by `clpds pairs`."""
    weight: Amount = 1.0
    """Share of the blocks that come from here, relative to the other corpora."""
    language: Literal["source", "target"] = "target"
    """Whose embedding a TRILayer model adds (masked); pairs say so themselves."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(Checked):
    """AdamW, and the clipping of the gradient."""

    lr: Amount = 3e-4
    """Highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the two moments."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: Amount = 0.1
    """Decoupled decay; never on norms, biases and other vectors."""
    clip: Amount = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""


@dataclass(frozen=True, kw_only=True)
class Schedule(Checked):
    """The learning rate as a function of the step."""

    kind: Literal["cosine", "linear", "wsd"] = "cosine"
    """Decay by cosine, linearly, or warm-up, stable, decay (wsd: linear over the last decay_steps)."""
    warmup_steps: NotNegative = 0
    """Steps of linear warm-up."""
    decay_steps: NotNegative = 0
    """Length of the decay at the end, for wsd."""
    min_lr_ratio: Amount = 0.1
    """Last learning rate as a share of the highest."""


@dataclass(frozen=True, kw_only=True)
class Saving(Checked):
    """Training checkpoints."""

    every: MaybeCount = None
    """Steps between two; only at the end unless told."""
    keep_last: Count = 2
    """How many to keep."""
    asynchronous: bool = False
    """Write beside the training: a rank copies its part to memory and goes on, while a thread writes that."""


@dataclass(frozen=True, kw_only=True)
class Validation(Checked):
    """Loss on held-out blocks: before the first step, while training, and after the last."""

    every: MaybeCount = None
    """Steps between two; none unless told."""
    data: dict[str, Path] = field(default_factory=dict)
    """A name and a prepared data set each, whose validation splits are scored; those of the mixture unless told."""
    blocks: MaybeCount = None
    """How many blocks of each corpus, from the first; all unless told."""


@dataclass(frozen=True, kw_only=True)
class Train(Checked):
    """A training stage: (objective, trainable parameters, data, budget)."""

    model: Path
    """Model to start from; a config as .json draws fresh weights, its vocabulary that of the data."""
    data: Annotated[dict[str, Corpus], Field(min_length=1)]
    """The mixture: a name and a prepared data set each."""
    out: Path
    """The run's folder: checkpoints/, metrics.jsonl, tensorboard/."""
    objective: Literal["causal", "masked", "minijoint", "cdlm", "classification"] = "causal"
    """What is predicted: the next token (causal), hidden ones from both sides (masked: BERT and its kin), these by
    a middle head as well (minijoint), a sentence from its translation, and hidden tokens (cdlm: TRILayer models), or
    a text's class (classification: an encoder, with a fresh classifier unless it has one)."""
    mask_share: Annotated[Positive, Field(le=1)] = 0.15
    """Share of the tokens that are hidden and predicted (masked, minijoint, and cdlm's own sentences)."""
    mini_weight: Annotated[Amount, Field(le=1)] = 0.5
    """Share of the middle head's loss in the sum of both heads' (minijoint)."""
    trainable: tuple[str, ...] = ("*",)
    """Shell patterns of parameter names; all others are frozen."""
    steps: Count
    """Optimizer steps."""
    micro_batch: Count
    """Blocks a rank puts through the model at once."""
    global_batch: Count
    """Blocks in an optimizer step, over all ranks and accumulation."""
    isolate_documents: bool = True
    """Documents packed into one block do not see each other."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more compute."""
    attention: Literal["auto", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"] = "auto"
    """transformers' name of what computes attention; its own choice unless told."""
    kernels: Literal["auto", "torch", "liger"] = "auto"
    """Norms, rotary embeddings, MLPs: liger-kernel's on a GPU, where installed and made for the family, or torch's."""
    deepspeed: Path = Path("zero3_bf16.json")
    """DeepSpeed JSON: a path, or the name of a file of ds_configs/."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    saving: Saving = field(default_factory=Saving)
    validation: Validation = field(default_factory=Validation)
    log_every: Count = 1
    """Steps between two lines of metrics."""
    seed: int = 0
    """Data order, dropout and fresh weights."""

    def __post_init__(self) -> None:
        if self.global_batch % self.micro_batch:
            raise ValueError(f"global_batch {self.global_batch} is no multiple of micro_batch {self.micro_batch}")
        for option, objectives in USED_BY_OBJECTIVE.items():
            if self.objective not in objectives and getattr(self, option) != getattr(Train, option):
                names = ", ".join(objectives)
                raise ValueError(f"objective {self.objective} does not use {option}, which is for {names}")
        if self.objective in ("causal", "cdlm") and any(corpus.language == "source" for corpus in self.data.values()):
            raise ValueError(
                f"objective {self.objective} does not use a corpus's language, which is for encoders' text"
            )
