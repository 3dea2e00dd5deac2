"""The first checkpoint: what each method needs, and every option of `clpds init`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import model_validator
from tyro.conf import arg

from clpds.bounds import COUNTED, LAYERS, WIDTH
from clpds.recipe.fields import (
    OPTIONAL,
    Amount,
    Checked,
    Count,
    MaybeCount,
    MaybeDtype,
    MaybePath,
    MaybePositive,
    MaybeShare,
    NotNegative,
)

VocabularyMethod = Literal["clp", "wechsel", "focus", "omp", "random", "overlap", "mean", "subpieces"]
RowsMethod = Literal[VocabularyMethod, "trelm"]
InitMethod = Literal[RowsMethod, "grow", "minijoint", "primary", "minimodel", "plug", "merge"]
GrowthFill = Literal["zero", "small", "copy"]
MaybeFill = Annotated[GrowthFill | None, arg(metavar="{zero,small,copy}", help_behavior_hint=OPTIONAL)]
NewLayers = Literal["fresh", "next", "last"]
Weighting = Literal["published", "nearest", "ridge", "clipped", "auto"]
# What a method cannot do without, beside the source and the target tokenizer.
NEEDS: dict[InitMethod, tuple[str, ...]] = {
    "clp": ("helper",),
    "wechsel": ("source_embeddings", "target_embeddings"),
    "focus": ("text",),
    "omp": ("helper",),
    "minijoint": ("take",),
    "minimodel": ("take",),
    "plug": ("embeddings",),
    "trelm": ("text",),
    "merge": ("lower",),
}
# Options of Init that some methods use and others would ignore.
USED_BY: dict[str, tuple[InitMethod, ...]] = {
    "weighting": ("clp",),
    "neighbours": ("clp", "wechsel"),
    "temperature": ("clp", "wechsel"),
    "ridge": ("clp",),
    "center": ("clp",),
    "shrink": ("clp",),
    "sparsity": ("omp",),
    "uncentered": ("omp",),
    "text": ("focus", "trelm"),
    "text_key": ("focus", "trelm"),
    "source_embeddings": ("wechsel",),
    "target_embeddings": ("wechsel",),
    "dictionary": ("wechsel",),
    "max_words": ("wechsel",),
    "refinements": ("wechsel",),
    "copy_overlap": ("wechsel",),
    "take": ("minijoint", "minimodel"),
    "new_layers": ("minimodel",),
    "new_from": ("minimodel",),
    "embeddings": ("plug",),
    "adversarial": ("trelm",),
    "lower": ("merge",),
    **dict.fromkeys(("helper", "tokenizer", "extend", "pad_to", "trilayer", "keep_head"), get_args(RowsMethod)),
}

# Sizes of the grown model beyond which it is a slip of the pen.
MOST = {"depth": LAYERS, "new_layers": LAYERS, "heads": COUNTED, "width": WIDTH, "feed_forward": WIDTH}


@dataclass(frozen=True, kw_only=True)
class Init(Checked):
    """Build a model's first checkpoint from a model that exists: in a new vocabulary, larger, or cut."""

    method: InitMethod = "clp"
    """clp, wechsel, focus, omp: from what is known of the new tokens; random, overlap, mean, subpieces: baselines;
    trelm: aligned static vectors, and a TRILayer; grow: a larger model with the source's vocabulary; minijoint: put a
    second head after a lower layer; primary: remove it; minimodel: cut the layers below it out; plug: embeddings
    learnt under a mini-model into the large one; merge: the lower half of another TRILayer model under the source's
    upper half."""
    source: Annotated[Path, arg(aliases=("--into",))]
    """The large model to take over: a folder, a GGUF file or a hub id."""
    helper: MaybePath = None
    """A small model of the target language (clp, omp). Its tokenizer is the target tokenizer."""
    tokenizer: MaybePath = None
    """The target tokenizer, where no helper brings one."""
    extend: bool = False
    """Keep the source's vocabulary and put the target's new tokens behind it."""
    out: Path
    """Folder to write; from_pretrained opens it."""
    weighting: Weighting = "published"
    """How missing rows are weighted over the overlap (clp); auto is ridge, its strength chosen
    by held-out overlap rows."""
    neighbours: Count = 10
    """k, for wechsel and the weighting `nearest`."""
    temperature: MaybePositive = None
    """Softmax temperature, for wechsel (0.1 unless told) and the weighting `nearest` (0.05)."""
    ridge: Amount = 0.01
    """Ridge strength relative to the mean eigenvalue of H^T H (H: helper rows), for the weighting `ridge`."""
    center: bool = False
    """Subtract the mean helper row before similarities are taken (clp)."""
    shrink: MaybeShare = None
    """How far to move shared tokens' rows towards what the ridge map makes of them, since the same text may mean
    another thing (weightings `ridge` and `auto`); 0 copies them, auto takes 0.25 unless told."""
    sparsity: MaybeCount = None
    """Shared tokens that a new one is a combination of (omp); by held-out overlap rows unless told."""
    uncentered: bool = False
    """Do not take the shared tokens' mean off the rows first, as published (omp)."""
    text: tuple[Path, ...] = ()
    """Text to learn how tokens are used from, of the target language (focus) or of both (trelm): text, JSONL or
    Parquet files."""
    text_key: str = "text"
    """Field that holds the text in JSONL and Parquet files (focus, trelm)."""
    source_embeddings: MaybePath = None
    """Word embeddings of the source's language (wechsel): made by `clpds embeddings`, fastText's .bin, or .vec text."""
    target_embeddings: MaybePath = None
    """Word embeddings of the target language (wechsel)."""
    dictionary: MaybePath = None
    """Pairs of words, source language first, a tab or space between (wechsel); `clpds dictionary` makes one. Without
    it the two embeddings are aligned by their shape alone."""
    max_words: MaybeCount = None
    """Use the first words of each embedding only, the most frequent (wechsel)."""
    refinements: NotNegative = 0
    """Rounds in which the alignment induces a dictionary of its own and is fitted to that (wechsel); without a
    dictionary five at least."""
    copy_overlap: bool = False
    """Copy the rows of tokens that the source has; the paper copies special tokens only (wechsel)."""
    take: MaybeCount = None
    """Layers of the mini-model, from the lowest (minijoint, minimodel)."""
    new_layers: NotNegative = 0
    """Layers to put on top of those taken (minimodel)."""
    new_from: NewLayers = "fresh"
    """Where these come from (minimodel): drawn, with the head's transform; the source's above the cut; its last."""
    embeddings: MaybePath = None
    """The adapted model whose embeddings and tokenizer to plug into the source (plug)."""
    adversarial: bool = False
    """Align static vectors and source rows by their shapes alone, as the paper does, not by shared tokens (trelm)."""
    trilayer: bool = False
    """Put a TRILayer before the middle block of a BERT or RoBERTa source, whatever the method; trelm always does."""
    keep_head: bool = False
    """Keep the source's prediction head in a TRILayer model; a fresh one unless told, as in the paper's code."""
    lower: MaybePath = None
    """The TRILayer model that gives the lower half (merge); the source gives the upper one."""
    width: MaybeCount = None
    """Grow the source to this hidden size first, whatever the method; heads and feed-forward grow along."""
    heads: MaybeCount = None
    """Attention heads of the grown model; a head keeps its size, and key-value heads grow in proportion."""
    feed_forward: MaybeCount = None
    """Feed-forward size of the grown model."""
    depth: MaybeCount = None
    """Layers of the grown model; a new one starts as the identity."""
    fill: MaybeFill = None
    """How added width starts: nothing writes there yet (zero), a little does (small), the same again (copy); unless
    told, the one that keeps the source's function."""
    noise: Amount = 0.0
    """Deviation of noise on what growth adds, as a share of each tensor's own; 0 keeps the source's function."""
    pad_to: Count = 1
    """Pad the number of rows to a multiple of this (64 or 128 suits GPUs and tensor parallelism)."""
    dtype: MaybeDtype = None
    """Type of the output's tensors; the source's unless told."""
    max_shard_size: str = "5GB"
    """Largest safetensors file; a smaller one of the source in which nothing changes stays as it is."""
    link: bool = False
    """Share such files with the source (hard links): they take no room, and are neither read nor hashed. Whatever
    changes one in place later changes both."""
    seed: int = 0
    """For whatever is drawn at random."""
    overwrite: bool = False
    """Replace the output folder if it exists."""

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        """What the method needs is there, and every option that differs from its default is used."""
        for option in NEEDS.get(self.method, ()):
            if not getattr(self, option):
                raise ValueError(f"method {self.method} needs {option}")
        default = {option.name: option.default for option in fields(self)}
        for option, methods in USED_BY.items():
            if self.method not in methods and getattr(self, option) != default[option]:
                raise ValueError(f"method {self.method} does not use {option}, which is for {', '.join(methods)}")
        if self.shrink and (self.weighting not in ("ridge", "auto") or self.extend):
            why = "extend keeps the source's rows" if self.extend else f"weighting {self.weighting} has no ridge map"
            raise ValueError(f"shrink does not fit here: {why}")
        if self.keep_head and not self.makes_trilayer:
            raise ValueError("keep_head is of TRILayer models; add trilayer or take method trelm")
        for option, most in MOST.items():
            if (getattr(self, option) or 0) > most:
                raise ValueError(f"{option} is {getattr(self, option):,}, and no model has over {most:,}")
        if self.grows and self.method == "merge":
            raise ValueError("method merge does not grow; grow the model before its stages")
        if not self.grows and self.method == "grow":
            raise ValueError("method grow needs width, heads, feed_forward or depth")
        if not self.grows and (self.fill or self.noise):
            raise ValueError("fill and noise are of what growth adds; give width, heads, feed_forward or depth")
        return self

    @property
    def grows(self) -> bool:
        """Whether the source is grown before its vocabulary is exchanged."""
        return any((self.width, self.heads, self.feed_forward, self.depth))

    @property
    def makes_trilayer(self) -> bool:
        """Whether the result has a TRILayer that its source has not."""
        return self.trilayer or self.method == "trelm"
