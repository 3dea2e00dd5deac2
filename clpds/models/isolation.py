"""Which way a model is given several documents so that each has the logits it has alone: found by trying.

A small copy of the model (`trial.py`) says what it makes of each document by itself, with nothing but its ids, and the
ways of `layout.py` are compared with that, over several documents and beyond the copy's windows. So no list of
architectures is needed: not of those whose positions count from the padding id (RoBERTa) or from 2 (MPNet), nor of
those that mask by positions (Llama), by a mask of four dimensions (OPT, BERT), or only a row at a time, because their
forward takes no positions (BLOOM) or a layer carries a state along (Mamba).
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from clpds.data.blocks import Batch
from clpds.errors import UserError
from clpds.models.head import call_at
from clpds.models.layout import Mask, Packed, Rows, Way, bare, continues_text, inputs_of, one_document_a_row
from clpds.models.trial import WINDOW, small_copy, some_ids, without_cache

# Tokens of the documents that are tried: with few, layers that keep the k highest scores (DeepSeek V3.2, Doge) seem
# right, since it takes equal scores to see that which of them they keep depends on what else is there.
LENGTHS = (15 * WINDOW, 3, 10 * WINDOW, 2 * WINDOW + 1, 15 * WINDOW, 6 * WINDOW + 1, 20 * WINDOW)
DISTINCT = 17  # tokens that the first of these has
CLOSE = 1e-4  # of the largest logit: rounding of float32 stays a tenth below, another window or position far above


@dataclass(frozen=True)
class Found:
    """What the trial of a model says."""

    way: Way | None
    """The first that gives each document what it has alone; None where its own forward fails or no way does."""
    causal: bool
    """Whether no token moves what stands before it."""
    problem: str
    """Why there is no way; empty where there is one."""
    gathers: bool = False
    """Whether the head of a masked language model can be given some positions only."""


_found: dict[tuple[type, str, str | None], Found] = {}
_itself: WeakKeyDictionary[nn.Module, Found] = WeakKeyDictionary()
_leaking: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def tried(model: nn.Module) -> Found:
    """What the trial says of a model of transformers, be it in a DeepSpeed engine or on the meta device.

    It is made once for a class and config, on a copy; every rank makes its own, and it is the same on all. Attention
    that the copy does not have (flash, flex) is tried on the model too: every rank has to call, weights in place.
    """
    inner = bare(model)
    attention = inner.config._attn_implementation
    key = type(inner), inner.config.to_json_string(use_diff=False), attention
    if key not in _found:
        copy = small_copy(inner, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        if copy is None:
            return _try_itself(model)
        with torch.no_grad():
            _found[key] = _try_copy(copy)
    found = _found[key]
    if isinstance(found.way, Packed) and attention not in (None, "eager", "sdpa"):
        if inner not in _leaking:
            _leaking[inner] = not next(inner.parameters()).is_meta and _leaks(model, found.way)
        if _leaking[inner]:
            return replace(found, way=None, problem=f"attention: {attention} mixes the documents of a block; give auto")
    return found


def require_fit(model: nn.Module, way: Way, micro_batch: int) -> None:
    """Raise UserError where a forward pass of ``micro_batch`` documents of several lengths is not exact."""
    if way == Rows(padded=False) and micro_batch > 1:
        raise UserError(
            f"{type(bare(model)).__name__} computes with padding as if it were text; set micro_batch: 1, so that each "
            "document has a pass of its own"
        )


def _try_itself(model: nn.Module) -> Found:
    """For a large model of which no small copy works: only that documents do not reach each other is tried."""
    inner = bare(model)
    if inner not in _itself:
        padding = [module.padding_idx for module in inner.modules() if isinstance(module, nn.Embedding)]
        counted = [number + 1 for number in padding[1:] if number is not None]
        ways = (
            [Packed("one", max(counted, default=0))] if not continues_text(inner) else [Packed("none"), Packed("one")]
        )
        takes = "position_ids" in inspect.signature(inner.forward).parameters and not next(inner.parameters()).is_meta
        way = next((way for way in ways if takes and not _leaks(model, way)), None)
        _itself[inner] = Found(way or Rows(masked=not continues_text(inner)), continues_text(inner), "")
    return _itself[inner]


def _try_copy(copy: PreTrainedModel) -> Found:
    positions = getattr(copy.config.get_text_config(), "max_position_embeddings", None)
    most = max(3 * WINDOW, positions - WINDOW) if isinstance(positions, int) and positions > 0 else max(LENGTHS)
    lengths = [min(length, most) for length in LENGTHS]
    documents = list(some_ids(copy, sum(lengths)).split(lengths))
    places = torch.arange(lengths[0])  # of the first, few tokens that come again and again: their scores are equal
    documents[0] = some_ids(copy, DISTINCT)[(places.square() + places // DISTINCT) % DISTINCT]
    try:
        alone = [_logits(copy, input_ids=document[None])[0] for document in documents]
        again = _logits(copy, input_ids=documents[-1][None])[0]
        half = len(documents[-1]) // 2
        changed = torch.cat([documents[-1][:half], documents[-1][:1].expand(len(documents[-1]) - half)])
        other = _logits(copy, input_ids=changed[None])[0]
    except Exception as error:  # whatever a class of transformers meets
        return Found(None, continues_text(copy), " ".join(str(error).split()) or repr(error))
    causal = not _differ(other[:half], alone[-1][:half])
    if _differ(again, alone[-1]):
        return Found(None, causal, "its forward gives another answer each time")
    for way in _ways(copy):
        try:
            if not _differs(copy, way, documents, alone):
                return Found(way, causal, "", not continues_text(copy) and _gathers(copy, documents[0], alone[0]))
        except Exception:  # this way is not for it
            continue
    return Found(None, causal, "a document among others never has what it has alone")


def _ways(copy: PreTrainedModel) -> Iterator[Way]:
    """What is tried, the best first."""
    if "position_ids" in inspect.signature(copy.forward).parameters:
        for offset in _offsets(copy):
            yield from (Packed(mask, offset) for mask in get_args(Mask))
    yield from (Rows(masked=masked) for masked in ((False, True) if continues_text(copy) else (True,)))
    yield Rows(padded=False)


def _offsets(copy: PreTrainedModel) -> list[int]:
    """What the first position may count as: 0, or one more than a padding id of the config or a table; in order."""
    padding = [getattr(copy.config.get_text_config(), "pad_token_id", None)]
    padding += [module.padding_idx for module in copy.modules() if isinstance(module, nn.Embedding)]
    return sorted({0, 1, 2, *(number + 1 for number in padding if number is not None)})


def _differs(copy: PreTrainedModel, way: Way, documents: Sequence[Tensor], alone: Sequence[Tensor]) -> bool:
    """Whether documents that come ``way`` have other logits than ``alone``."""
    orders = [list(range(len(documents))), [*range(1, len(documents)), 0]]
    batch = _blocks([[documents[n] for n in order] for order in orders])
    causal = continues_text(copy)
    if isinstance(way, Packed):
        logits = _logits(copy, **inputs_of(way, batch, copy, causal=causal))
        return _differ(logits, torch.stack([torch.cat([alone[n] for n in order]) for order in orders]))
    by_length = sorted([n for order in orders for n in order], key=lambda n: len(documents[n]))
    rows: list[Tensor] = []
    for part in one_document_a_row(batch, batch.input_ids.numel() * len(documents), padded=way.padded):
        rows += _logits(copy, **inputs_of(way, part, copy, causal=causal))
    return any(_differ(row[: len(alone[n])], alone[n]) for row, n in zip(rows, by_length, strict=True))


def _gathers(copy: PreTrainedModel, document: Tensor, alone: Tensor) -> bool:
    few = torch.arange(len(document), device=document.device)[None] % 3 == 0
    try:
        logits: Tensor = call_at(copy, few, input_ids=document[None]).logits
    except Exception:  # a head that wants the whole text
        return False
    return not _differ(logits[0], alone[few[0]])


def _leaks(model: nn.Module, way: Way) -> bool:
    """Whether a change in the first of two packed documents reaches the second in the model itself.

    That is far more than rounding, which in bfloat16 and with experts that share a product is 1e-2.
    """
    inner = bare(model)
    one, other, second = some_ids(inner, 6 * WINDOW).split(2 * WINDOW)
    batches = [_blocks([[first, second]]) for first in (one, other)]
    causal, training = continues_text(inner), model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = [
                model(**inputs_of(way, batch, model, causal=causal), **without_cache(inner)).logits[0]
                for batch in batches
            ]
    except Exception:  # this attention takes no such mask
        return True
    finally:
        model.train(training)
    change = (logits[0].float() - logits[1].float()).abs()
    return bool(change[2 * WINDOW :].max() > 0.05 * change[: 2 * WINDOW].max())


def _logits(model: PreTrainedModel, **inputs: Any) -> Tensor:
    logits: Tensor = model(**inputs, **without_cache(model)).logits
    return logits


def _blocks(rows: Sequence[Sequence[Tensor]]) -> Batch:
    """A block for each row of documents, all of one length."""
    ids = torch.stack([torch.cat(list(documents)) for documents in rows])
    positions = torch.stack([torch.cat([torch.arange(len(part)) for part in documents]) for documents in rows])
    return Batch(ids, positions.to(ids.device), ids, torch.ones(len(rows), dtype=torch.int64))


def _differ(some: Tensor, wanted: Tensor) -> bool:
    if some.shape != wanted.shape:
        return True
    return not bool((some - wanted).abs().max() <= CLOSE * wanted.abs().max())  # NaN differs
