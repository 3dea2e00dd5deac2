"""Packed blocks through a causal model: several documents in a row that do not see each other.

With ``attention_mask=None``, no cache and ``position_ids`` that restart at each document, the masks
of transformers (``masking_utils``) are block-diagonal for every attention implementation: eager,
sdpa and flex get the mask, flash attention the lengths. That holds for GPT-2, GPT-NeoX, Llama,
Mistral, Qwen, Gemma and their kin. OPT, XGLM and Falcon take ``position_ids`` but build their mask
without them: they are given a mask of four dimensions (eager and sdpa only). No way is left where
the forward takes no ``position_ids`` (BLOOM, MPT) or a layer carries a state from token to token
(Mamba, short convolutions, linear attention). Which of the three it is, the model itself is asked.
"""

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from clpds.data.blocks import Batch

Way = Literal["positions", "mask", "none"]
LENGTH = 8  # tokens of each of the two documents of a trial
_ways: WeakKeyDictionary[nn.Module, Way] = WeakKeyDictionary()


def forward_packed(model: nn.Module, batch: "Batch", *, isolate: bool) -> Tensor:
    """Logits (B, N, V) of a batch of blocks, in the model's dtype and on the batch's device.

    ``model`` is a causal model of transformers or a DeepSpeed engine around one. With ``isolate``
    the documents of a block do not see each other, provided ``can_isolate(model)``; without, every
    token sees all of the block before it and positions count from the block's start.
    """
    way = _way(model) if isolate else "none"
    return _forward(model, batch.input_ids, batch.position_ids, way)


def can_isolate(model: nn.Module) -> bool:
    """Whether packed documents can be kept apart in this model (or DeepSpeed engine), found by trying.

    A change in the first of two packed documents must not reach the second by a single bit: that
    says more than a list of architectures could. The first call costs four passes over 16 tokens
    and wants the weights in place, not on the meta device; with an engine every rank has to call.
    """
    return _way(model) != "none"


def _way(model: nn.Module) -> Way:
    """How this model keeps packed documents apart; tried once and remembered as long as it lives."""
    inner = bare(model)
    if inner not in _ways:
        takes_positions = "position_ids" in inspect.signature(inner.forward).parameters
        ways: tuple[Way, ...] = ("positions", "mask") if takes_positions else ()
        _ways[inner] = next((way for way in ways if _isolates(model, way)), "none")
    return _ways[inner]


def _isolates(model: nn.Module, way: Way) -> bool:
    device = next(model.parameters()).device
    second = torch.arange(3, 3 + LENGTH)
    position_ids = torch.arange(LENGTH).repeat(1, 2).to(device)
    training = model.training
    model.eval()
    with torch.no_grad():
        # Two passes and not two rows: equal places in equal shapes are computed alike to the last bit.
        one, other = (
            _forward(model, torch.cat([first, second])[None].to(device), position_ids, way)[0].float()
            for first in (second.flip(0), second.roll(3))
        )
    model.train(training)
    change = (one - other).abs()
    return bool(change[LENGTH:].max() <= 1e-6 * change[:LENGTH].max())


def _forward(model: nn.Module, input_ids: Tensor, position_ids: Tensor, way: Way) -> Tensor:
    inputs: dict[str, Tensor] = {} if way == "none" else {"position_ids": position_ids}
    dtype = next(model.parameters()).dtype
    mask = document_mask(position_ids, dtype, causal=True) if way == "mask" else None
    logits: Tensor = model(input_ids=input_ids, attention_mask=mask, use_cache=False, **inputs).logits
    return logits


def document_mask(position_ids: Tensor, dtype: torch.dtype, *, causal: bool) -> Tensor:
    """(B, 1, N, N), 0 where a token may look and the most negative number elsewhere, from positions (B, N)."""
    document = (position_ids == 0).cumsum(dim=-1)
    allowed = (document[:, :, None] == document[:, None, :])[:, None]
    if causal:
        allowed = allowed.tril()
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def one_document_a_row(batch: "Batch", tokens: int) -> Iterator["Batch"]:
    """The documents of a batch, each in a row of its own, shortest first, padded at the end.

    For models that cannot isolate: a causal model does not see padding that comes later, so
    ``forward_packed(..., isolate=False)`` on the result is exact. No part holds more than ``tokens``
    tokens, padding included, unless a single document does; labels at padding are -100.
    """
    starts = (batch.position_ids == 0).flatten().nonzero().flatten().tolist()
    spans = sorted(zip(starts, [*starts[1:], batch.input_ids.numel()], strict=True), key=lambda span: span[1] - span[0])
    rows: list[tuple[int, int]] = []
    for start, stop in spans:
        if rows and (len(rows) + 1) * (stop - start) > tokens:
            yield _rows(batch, rows)
            rows = []
        rows.append((start, stop))
    yield _rows(batch, rows)


def _rows(batch: "Batch", spans: list[tuple[int, int]]) -> "Batch":
    width = max(stop - start for start, stop in spans)

    def padded(tensor: Tensor, fill: int) -> Tensor:
        flat = tensor.flatten()
        return torch.stack([nn.functional.pad(flat[a:b], (0, width - (b - a)), value=fill) for a, b in spans])

    return batch._replace(
        input_ids=padded(batch.input_ids, 0),
        position_ids=padded(batch.position_ids, 0),
        labels=padded(batch.labels, -100),
    )


def bare(model: nn.Module) -> Any:
    """The model of transformers inside a DeepSpeed engine, or the model itself."""
    inner = getattr(model, "module", model)
    return inner if isinstance(inner, nn.Module) else model
