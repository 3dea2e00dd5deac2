"""Documents packed for a masked language model behave as if each were alone; the head sees chosen places only."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    PreTrainedModel,
)

from clpds.errors import UserError
from clpds.models.encoder import forward_at, longest, require_encoder
from tests.models.test_packing import LENGTHS, VOCABULARY, Batch, packed
from tests.tiny import SMALL, tiny_model

MASKED = ("bert", "roberta", "xlm-roberta", "electra", "albert", "trelm-bert", "trelm-roberta")


def encoder(shape: str, attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    if shape == "electra":
        config = ElectraConfig(vocab_size=VOCABULARY, embedding_size=16, attn_implementation=attention, **SMALL)
        return ElectraForMaskedLM(config).eval()
    if shape == "albert":
        config = AlbertConfig(vocab_size=VOCABULARY, embedding_size=16, attn_implementation=attention, **SMALL)
        return AlbertForMaskedLM(config).eval()
    return tiny_model(shape, VOCABULARY, attn_implementation=attention, pad_token_id=1)


def alone(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(B N, V): each document put through the model by itself, with nothing but its ids."""
    rows = []
    for ids, lengths in zip(batch.input_ids, LENGTHS, strict=True):
        rows += [model(input_ids=document[None]).logits[0] for document in ids.split(lengths)]
    return torch.cat(rows)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", MASKED)
@torch.no_grad()
def test_a_packed_document_has_the_logits_it_has_alone(shape: str, attention: str) -> None:
    model, batch = encoder(shape, attention), packed()
    require_encoder(model)
    expected = alone(model, batch)
    everywhere = torch.ones_like(batch.input_ids, dtype=torch.bool)
    torch.testing.assert_close(forward_at(model, batch, everywhere).logits[0], expected, atol=2e-6, rtol=1e-5)
    some = torch.rand(batch.input_ids.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    torch.testing.assert_close(forward_at(model, batch, some).logits[0], expected[some.flatten()], atol=2e-6, rtol=1e-5)
    assert (model(input_ids=batch.input_ids).logits.flatten(0, 1) - expected)[: LENGTHS[0][0]].abs().max() > 1e-3


@pytest.mark.parametrize("shape", MASKED)
def test_only_chosen_places_go_through_the_output_matrix(shape: str) -> None:
    model, batch = encoder(shape), packed()
    require_encoder(model)
    seen: list[int] = []
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel() // inputs[0].shape[-1]))
    chosen = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    forward_at(model, batch, chosen).logits.sum().backward()  # a rank may have no prediction at all
    chosen[0, 3] = chosen[2, [0, 15]] = True
    forward_at(model, batch, chosen)
    assert seen == [0, 3]
    assert model(input_ids=batch.input_ids).logits.shape[:2] == batch.input_ids.shape  # nothing stays behind


def test_asking_works_in_bfloat16_and_leaves_the_mode_alone() -> None:
    model = tiny_model("roberta", VOCABULARY, dtype=torch.bfloat16).train()
    require_encoder(model)
    assert model.training


def test_what_does_not_suit_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"LlamaForCausalLM .* goes on with a text"):
        require_encoder(tiny_model("llama", VOCABULARY))


def test_positions_that_count_from_the_padding_id_leave_fewer() -> None:
    model = tiny_model("roberta", VOCABULARY, pad_token_id=1)
    most = longest(model)
    assert most == 128
    ids = torch.arange(most)[None] % 40 + 3
    model(input_ids=ids)
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(input_ids=torch.cat([ids, ids[:, :1]], dim=1))
    assert longest(tiny_model("bert", VOCABULARY)) == 128
    assert all(a < b for a, b in pairwise([longest(tiny_model("roberta", 50, pad_token_id=n)) for n in (3, 2, 1)]))
