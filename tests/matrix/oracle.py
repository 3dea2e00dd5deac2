"""What is right, by plain transformers and plain torch: no line of clpds takes part."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import datasets
import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.matrix.inputs import ROWS

LR, DECAY, CLIP, BETAS, EPS = 2e-2, 0.1, 1.0, (0.9, 0.95), 1e-2  # so large an eps forgives the last bits of a gradient
NATS_A_BIT = math.log(2)
Document = tuple[Tensor, Tensor]
"""Ids (N,) of a document by itself, and labels (N,): -100 where nothing is predicted; of causal models not shifted."""


class SilentError(AssertionError):
    """Something was written or printed that is not so."""


def load(folder: Path) -> PreTrainedModel:
    """The folder's own class in float32; SilentError where a weight is missing, left over, or of another shape."""
    cls = getattr(transformers, AutoConfig.from_pretrained(folder).architectures[0])
    model, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    lost = {key: sorted(map(str, names))[:3] for key, names in info.items() if names}
    if lost:
        raise SilentError(f"keys: {lost}")
    return model.eval()


def opened(folder: Path) -> PreTrainedModel:
    """What a user of the Auto classes gets: the folder's own class, or of some composites their text model alone."""
    own = load(folder)
    kind = type(own.config)
    if own.can_generate() and kind in (found := AutoModelForCausalLM._model_mapping) and found[kind] is not type(own):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return own


def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """(N, V) of one text (N,)."""
    cached = {"use_cache": False} if hasattr(model.config, "use_cache") and model.can_generate() else {}
    return model(input_ids=ids[None], **cached).logits[0]


def require_sound(model: PreTrainedModel, *, causal: bool) -> str:
    """Empty, or why the model is none of its kind: not finite, or its earlier logits know later tokens."""
    ids = torch.arange(20, 60)
    other = ids.clone()
    other[-1] = 70
    with torch.no_grad():
        one, two = logits(model, ids), logits(model, other)
    if one.shape[0] != len(ids) or not one.isfinite().all():
        return f"logits of shape {tuple(one.shape)}, finite: {bool(one.isfinite().all())}"
    change = (one - two).abs().amax(dim=-1)
    if causal and change[:-1].max() > 1e-4 * one.abs().max():
        return "a later token moves earlier logits"
    return ""


def require_rows(old: PreTrainedModel, new: PreTrainedModel, pairs: Sequence[tuple[int, int]]) -> None:
    """SilentError unless shared tokens have their rows in every table that has one a token, and all else is the same.

    ``pairs`` are (id in the new model, id in the old one). Logits of shared tokens over shared tokens have to be equal,
    which also covers what is indexed by token in ways that no shape shows.
    """
    ours, theirs = torch.tensor(pairs).T
    before, after = old.state_dict(), new.state_dict()
    if lost := sorted(before.keys() ^ after.keys()):
        raise SilentError(f"tensors lost or new: {lost[:3]}")
    for name, tensor in before.items():
        other = after[name]
        if ROWS in tensor.shape:
            axis = tensor.shape.index(ROWS)
            if other.ndim != tensor.ndim or other.shape[axis] == ROWS:
                raise SilentError(f"{name} keeps its {ROWS} rows")
            tensor, other = tensor.index_select(axis, theirs), other.index_select(axis, ours)
        elif tensor.shape != other.shape:
            continue  # positions counted from the padding id: the logits tell
        if not torch.equal(tensor, other):
            raise SilentError(f"{name} differs by {(tensor - other).abs().max():.1e}")
    shared = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:60]
    with torch.no_grad():
        x, y = logits(old, theirs[shared])[:, theirs], logits(new, ours[shared])[:, ours]
    if not y.isfinite().all():
        raise SilentError("logits are not finite")
    if (gap := ((x - y).abs().max() / x.abs().max()).item()) > 1e-5:
        raise SilentError(f"logits of shared tokens differ by {gap:.1e}")


def documents(folder: Path, split: str) -> list[Document]:
    """Every document of a prepared data set as the blocks cut it, without padding."""
    found = []
    for row in datasets.load_from_disk(str(folder / split)):
        ids, ends = torch.tensor(row["input_ids"]), row["ends"]
        starts = [0, *ends]
        found += [(ids[a:b], _after_the_first(ids[a:b])) for a, b in pairwise(starts)]
    return found


def _after_the_first(ids: Tensor) -> Tensor:
    labels = ids.clone()
    labels[0] = -100
    return labels


def alone(ids: Tensor, positions: Tensor, labels: Tensor) -> Iterator[Document]:
    """The documents of blocks (B, N) whose positions restart at each."""
    for row in zip(ids, positions, labels, strict=True):
        starts = [*(row[1] == 0).nonzero().flatten().tolist(), len(row[0])]
        yield from ((row[0][a:b], row[2][a:b]) for a, b in pairwise(starts))


def nll(model: PreTrainedModel, document: Document, *, causal: bool) -> Tensor:
    """Nats of the document's labels, added up."""
    ids, labels = document
    if (labels == -100).all():
        return torch.zeros(())
    found = logits(model, ids).float()
    found, labels = (found[:-1], labels[1:]) if causal else (found, labels)
    return cross_entropy(found, labels, ignore_index=-100, reduction="sum")


def score(model: PreTrainedModel, texts: Sequence[Document], *, causal: bool) -> tuple[float, int]:
    """Nats and predicted tokens of all documents, one at a time."""
    with torch.no_grad():
        nats = sum(nll(model, text, causal=causal).item() for text in texts)
    return nats, sum(int((labels != -100).sum()) for _, labels in texts)


def train(model: PreTrainedModel, batches: Sequence[Sequence[Document]], *, causal: bool) -> list[tuple[float, float]]:
    """A step of AdamW a batch; the mean loss and the gradient's norm before clipping of each."""
    for module in model.modules():  # some activations are one for all models, and still have DeepSpeed's hooks
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()
    model.train()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    found = []
    for batch in batches:
        count = sum(int((labels != -100).sum()) for _, labels in batch)
        total = 0.0
        optimizer.zero_grad()
        for text in batch:
            loss = nll(model, text, causal=causal)
            if loss.requires_grad:
                (loss / count).backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item()
        optimizer.step()
        found.append((total / count, norm))
    model.eval()
    return found


def require_weights(new: PreTrainedModel, trained: PreTrainedModel) -> None:
    """SilentError unless both have the same weights, but for the last bits of an update."""
    before, after = trained.state_dict(), new.state_dict()
    # Ranges that I-BERT's layers have seen follow every pass, and so how documents are put together.
    ranges = ("x_min", "x_max")
    before, after = ({name: held for name, held in one.items() if not name.endswith(ranges)} for one in (before, after))
    if lost := sorted(before.keys() ^ after.keys()):
        raise SilentError(f"tensors lost or new: {lost[:3]}")
    gaps = {
        name: (tensor.double() - after[name].double()).abs().max().item()
        for name, tensor in before.items()
        if tensor.numel()
    }
    worst = max(gaps, key=gaps.__getitem__)
    if gaps[worst] > 2e-5:
        wrong = sum(gap > 2e-5 for gap in gaps.values())
        raise SilentError(f"weights: {worst} and {wrong - 1} more differ by {gaps[worst]:.1e}")
