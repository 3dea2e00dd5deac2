"""Documents packed into one block behave as if each were alone."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from clpds.models.layout import one_document_a_row
from clpds.models.packing import can_isolate, forward_packed
from tests.ranks import run_ranks
from tests.tiny import CAUSAL, SMALL, tiny_model

VOCABULARY = 50
LENGTHS = [[5, 1, 10], [1, 1, 14], [16]]  # documents of each block; one-token documents are the awkward ones
ISOLATING = [shape for shape in CAUSAL if shape != "bloom"]


class Batch(NamedTuple):
    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    language_ids: Tensor


def packed() -> Batch:
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, VOCABULARY, (len(LENGTHS), 16), generator=generator)
    position_ids = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in LENGTHS])
    labels = torch.where(position_ids == 0, -100, input_ids)
    return Batch(input_ids, position_ids, labels, torch.ones(len(LENGTHS), dtype=torch.int64))


def alone(model: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """Each block's logits, its documents put through the model one by one."""
    with torch.no_grad():
        return [
            torch.cat([model(input_ids=document[None]).logits[0] for document in ids.split(lengths)])
            for ids, lengths in zip(batch.input_ids, LENGTHS, strict=True)
        ]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", ISOLATING)
def test_a_packed_document_has_the_logits_it_has_alone(shape: str, attention: str) -> None:
    model = tiny_model(shape, VOCABULARY, attn_implementation=attention)
    batch = packed()
    assert can_isolate(model)
    with torch.no_grad():
        logits = forward_packed(model, batch, isolate=True)
        open_ = forward_packed(model, batch, isolate=False)
    for row, expected in enumerate(alone(model, batch)):
        torch.testing.assert_close(logits[row], expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(open_[2], alone(model, batch)[2], atol=2e-6, rtol=1e-5)
    later = slice(LENGTHS[0][0], None)  # all but the first document hear of others when they are not kept apart
    assert (open_[0, later] - logits[0, later]).abs().amax(dim=-1).min() > 1e-3


def test_without_isolation_a_block_is_one_text() -> None:
    model, batch = tiny_model("llama", VOCABULARY), packed()
    with torch.no_grad():
        expected = model(input_ids=batch.input_ids).logits
        torch.testing.assert_close(forward_packed(model, batch, isolate=False), expected)


def test_a_sliding_window_stays_inside_the_document() -> None:
    torch.manual_seed(0)
    config = MistralConfig(vocab_size=VOCABULARY, sliding_window=4, num_key_value_heads=2, **SMALL)
    model, batch = MistralForCausalLM(config).eval(), packed()
    assert can_isolate(model)
    with torch.no_grad():
        logits = forward_packed(model, batch, isolate=True)
    for row, expected in enumerate(alone(model, batch)):
        torch.testing.assert_close(logits[row], expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", ["bloom", "lfm2"])
def test_models_that_cannot_isolate_are_found_and_unpacked(shape: str) -> None:
    torch.manual_seed(0)
    model: Any
    if shape == "bloom":  # no position_ids in the forward
        model = tiny_model("bloom", VOCABULARY)
    else:  # masks by them, but a convolution carries over
        config = Lfm2Config(
            vocab_size=VOCABULARY, num_key_value_heads=2, layer_types=["conv", "full_attention"], **SMALL
        )
        model = Lfm2ForCausalLM(config).eval()
    batch = packed()
    assert not can_isolate(model)
    parts = list(one_document_a_row(batch, tokens=20))
    assert all(part.input_ids.numel() <= 20 for part in parts)
    assert sum((part.labels != -100).sum().item() for part in parts) == (batch.labels != -100).sum()
    found = {}
    with torch.no_grad():
        for part in parts:
            for ids, labels, logits in zip(
                part.input_ids, part.labels, forward_packed(model, part, isolate=False), strict=True
            ):
                length = 1 + int((labels != -100).sum())
                found[tuple(ids[:length].tolist())] = logits[:length]
    for ids, lengths, expected in zip(batch.input_ids, LENGTHS, alone(model, batch), strict=True):
        for document, wanted in zip(ids.split(lengths), expected.split(lengths), strict=True):
            torch.testing.assert_close(found[tuple(document.tolist())], wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", ISOLATING)
def test_asking_works_in_bfloat16_and_leaves_the_mode_alone(shape: str) -> None:
    model = tiny_model(shape, VOCABULARY, dtype=torch.bfloat16).train()
    assert can_isolate(model)
    assert model.training


def _under_zero3(shape: str) -> tuple[bool, Any, Any]:
    import deepspeed
    import torch.distributed as dist

    dist.init_process_group("gloo")
    model = tiny_model(shape, VOCABULARY)
    with torch.no_grad():
        plain = forward_packed(model, packed(), isolate=True)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    optimizer = torch.optim.AdamW(model.parameters())
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    possible = can_isolate(engine)
    engine.eval()
    with torch.no_grad():
        return possible, forward_packed(engine, packed(), isolate=True).numpy(), plain.numpy()


@pytest.mark.parametrize("shape", ["llama", "opt"])
def test_a_deepspeed_engine_is_as_good_as_its_model(shape: str) -> None:
    for possible, logits, plain in run_ranks(2, _under_zero3, shape):
        assert possible
        np.testing.assert_allclose(logits, plain, atol=2e-6, rtol=1e-5)
