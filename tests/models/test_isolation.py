"""What the trial of a model says, against the model's own forward of each document alone."""

from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertLMHeadModel,
    BloomForCausalLM,
    ConvBertConfig,
    ConvBertForMaskedLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForCausalLM,
    RoFormerConfig,
    RoFormerForMaskedLM,
)

from clpds.errors import UserError
from clpds.models.encoder import forward_at, require_encoder
from clpds.models.isolation import tried
from clpds.models.layout import Packed, Rows, one_document_a_row
from clpds.models.packing import forward_packed, require_causal
from clpds.models.unreached import unreached
from tests.models.test_packing import LENGTHS, VOCABULARY, alone, packed
from tests.tiny import GQA, SMALL, tiny_model

KINDS: dict[str, tuple[type[PreTrainedModel], Any, Any]] = {
    "gpt_oss": (
        GptOssForCausalLM,
        lambda: GptOssConfig(
            **GQA, head_dim=8, vocab_size=VOCABULARY, sliding_window=4, num_local_experts=4, num_experts_per_tok=2
        ),
        Packed("layers"),
    ),
    "roberta": (
        RobertaForCausalLM,
        lambda: RobertaConfig(**SMALL, vocab_size=VOCABULARY, is_decoder=True, pad_token_id=1),
        Packed("one", 2),
    ),
    "mpnet": (MPNetForMaskedLM, lambda: MPNetConfig(**SMALL, vocab_size=VOCABULARY, pad_token_id=1), Packed("one", 2)),
    "modernbert": (
        ModernBertForMaskedLM,
        lambda: ModernBertConfig(**SMALL, vocab_size=VOCABULARY, local_attention=4, pad_token_id=0),
        Packed("layers"),
    ),
    "roformer": (
        RoFormerForMaskedLM,
        lambda: RoFormerConfig(**SMALL, vocab_size=VOCABULARY, embedding_size=32),
        Rows(masked=True),
    ),
    "convbert": (
        ConvBertForMaskedLM,
        lambda: ConvBertConfig(**SMALL, vocab_size=VOCABULARY, embedding_size=32),
        Rows(padded=False),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_document_among_others_has_what_it_has_alone(kind: str) -> None:
    cls, config, way = KINDS[kind]
    torch.manual_seed(0)
    model = cls(config()).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    batch = packed()
    assert tried(model).way == way
    parts = [batch] if isinstance(way, Packed) else list(one_document_a_row(batch, 40, padded=way.padded))
    found = {}
    for part in parts:
        everywhere = torch.ones_like(part.input_ids, dtype=torch.bool)
        logits = (
            forward_packed(model, part, isolate=True)
            if model.can_generate()
            else forward_at(model, part, everywhere).logits.unflatten(1, part.input_ids.shape)[0]
        )
        if isinstance(way, Packed):
            for row, (ids, lengths) in enumerate(zip(part.input_ids, LENGTHS, strict=True)):
                pieces = zip(ids.split(lengths), logits[row].split(lengths), strict=True)
                found |= {tuple(document.tolist()): piece for document, piece in pieces}
        else:
            lengths = [1 + int((labels != -100).sum()) for labels in part.labels]
            rows = zip(part.input_ids, logits, lengths, strict=True)
            found |= {tuple(ids[:length].tolist()): row[:length] for ids, row, length in rows}
    for ids, lengths, wanted in zip(batch.input_ids, LENGTHS, alone(model, batch), strict=True):
        for document, expected in zip(ids.split(lengths), wanted.split(lengths), strict=True):
            torch.testing.assert_close(found[tuple(document.tolist())], expected, atol=5e-6, rtol=1e-4)


def test_what_cannot_be_trained_on_packed_documents_says_what_to_do() -> None:
    encoder = RoFormerForMaskedLM(RoFormerConfig(**SMALL, vocab_size=VOCABULARY, embedding_size=32))
    with pytest.raises(UserError, match="--one-document"):
        require_encoder(encoder)
    require_encoder(encoder, single=True, micro_batch=4)
    wide = ConvBertForMaskedLM(ConvBertConfig(**SMALL, vocab_size=VOCABULARY, embedding_size=32))
    with pytest.raises(UserError, match="micro_batch: 1"):
        require_encoder(wide, single=True, micro_batch=4)
    bloom = tiny_model("bloom", VOCABULARY)
    assert isinstance(bloom, BloomForCausalLM)
    with pytest.raises(UserError, match="--one-document"):
        require_causal(bloom, isolate=True, single=False, micro_batch=4)
    require_causal(bloom, isolate=True, single=True, micro_batch=4)


def test_a_model_that_sees_what_it_predicts_is_refused() -> None:
    bert = BertLMHeadModel(tiny_model("bert", VOCABULARY).config)
    with pytest.raises(UserError, match="no causal language model"):
        require_causal(bert, isolate=True, single=False, micro_batch=1)


def test_a_large_model_is_tried_by_a_narrow_copy() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig())  # 7 billion
    assert tried(model).way == Packed("none")


def test_weights_behind_no_logit_are_found() -> None:
    config = BartConfig(vocab_size=VOCABULARY, d_model=32, decoder_layers=1, decoder_attention_heads=4)
    names = unreached(BartForCausalLM(config))
    assert names
    assert all(".encoder_attn" in name for name in names)
    assert not unreached(tiny_model("llama", VOCABULARY))
