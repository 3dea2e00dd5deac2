"""How blocks of several documents are put before a model so that each has what it has alone: the ways there are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from clpds.data.blocks import Batch

Mask = Literal["none", "one", "layers"]


@dataclass(frozen=True)
class Packed:
    """Documents share a row and are kept apart by the positions that are passed."""

    mask: Mask
    """transformers' own mask by the positions; one of four dimensions; or one for each type of layer."""
    offset: int = 0
    """What the model itself counts a document's first token as."""


@dataclass(frozen=True)
class Rows:
    """Each document has a row of its own and positions that the model counts itself."""

    padded: bool = True
    """Whether documents of several lengths can share a batch."""
    masked: bool = False
    """Whether the padding is hidden by an attention mask of two dimensions."""


Way = Packed | Rows


def inputs_of(way: Way, batch: "Batch", model: nn.Module, *, causal: bool) -> dict[str, Any]:
    """What to pass to ``model``; with `Rows`, a row of ``batch`` has one document and its padding behind it."""
    inner = bare(model)
    if isinstance(way, Packed):
        inputs: dict[str, Any] = {"position_ids": batch.position_ids + way.offset}
        dtype = next(inner.parameters()).dtype
        if way.mask == "one":
            inputs["attention_mask"] = document_mask(batch.position_ids, dtype, causal=causal)
        elif way.mask == "layers":
            inputs["attention_mask"] = _mask_of_each_type(batch.position_ids, dtype, inner.config, causal=causal)
    else:
        inputs = {"attention_mask": real_tokens(batch).long()} if way.masked else {}
    return {"input_ids": batch.input_ids, **inputs}


def real_tokens(batch: "Batch") -> Tensor:
    """(B, N) bool: the first document of each row; padding begins like a second one."""
    return (batch.position_ids == 0).cumsum(dim=1) == 1


def document_mask(position_ids: Tensor, dtype: torch.dtype, *, causal: bool, window: int | None = None) -> Tensor:
    """(B, 1, N, N), 0 where a token may look and the most negative number elsewhere, from positions (B, N).

    With ``window`` it sees so many tokens, itself among them, or no further than that to either side, as
    transformers counts for causal models and for others.
    """
    document = (position_ids == 0).cumsum(dim=-1)
    allowed = (document[:, :, None] == document[:, None, :])[:, None]
    if causal:
        allowed = allowed.tril()
    if window is not None:
        allowed = allowed.triu(1 - window) if causal else allowed.tril(window).triu(-window)
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def one_document_a_row(batch: "Batch", tokens: int, *, padded: bool = True) -> Iterator["Batch"]:
    """The documents of a batch, each in a row of its own, shortest first, padded at the end.

    No part has more than ``tokens`` tokens, padding included, unless a single document does; labels at padding are
    -100. Where not ``padded``, all documents of a part have the same length.
    """
    starts = (batch.position_ids == 0).flatten().nonzero().flatten().tolist()
    spans = sorted(zip(starts, [*starts[1:], batch.input_ids.numel()], strict=True), key=lambda span: span[1] - span[0])
    rows: list[tuple[int, int]] = []
    for start, stop in spans:
        full = (len(rows) + 1) * (stop - start) > tokens
        if rows and (full or (not padded and stop - start > rows[0][1] - rows[0][0])):
            yield _rows(batch, rows)
            rows = []
        rows.append((start, stop))
    yield _rows(batch, rows)


def trimmed(batch: "Batch") -> "Batch":
    """Rows of one document each without the padding that all of them have."""
    width = int(real_tokens(batch).sum(dim=1).max())
    fields = batch._asdict()
    return batch._replace(**{name: tensor[:, :width] for name, tensor in fields.items() if tensor.dim() == 2})


def _rows(batch: "Batch", spans: list[tuple[int, int]]) -> "Batch":
    width = max(stop - start for start, stop in spans)

    def padded(tensor: Tensor, fill: int) -> Tensor:
        flat = tensor.flatten()
        return torch.stack([nn.functional.pad(flat[a:b], (0, width - (b - a)), value=fill) for a, b in spans])

    blocks = torch.tensor([start // batch.input_ids.shape[1] for start, _ in spans], device=batch.input_ids.device)
    return batch._replace(
        input_ids=padded(batch.input_ids, 0),
        position_ids=padded(batch.position_ids, 0),
        labels=padded(batch.labels, -100),
        language_ids=batch.language_ids[blocks],
    )


def _mask_of_each_type(position_ids: Tensor, dtype: torch.dtype, config: Any, *, causal: bool) -> dict[str, Tensor]:
    """A mask by the name of each type of layer (B, 1, N, N), as models with windows take it."""
    whole = document_mask(position_ids, dtype, causal=causal)
    near = document_mask(position_ids, dtype, causal=causal, window=config.sliding_window)
    return {"full_attention": whole, "sliding_attention": near}


def continues_text(model: nn.Module) -> bool:
    """Whether the model predicts the next token; XLM and Flaubert have one class for both, and a switch."""
    inner = bare(model)
    return bool(inner.can_generate()) and getattr(inner.config, "causal", None) is not False


def bare(model: nn.Module) -> Any:
    """The model of transformers inside a DeepSpeed engine, or the model itself."""
    inner = getattr(model, "module", model)
    return inner if isinstance(inner, nn.Module) else model
