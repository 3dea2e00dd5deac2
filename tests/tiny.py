"""Tiny models and tokenizers of every shape the tests need: seconds to build, real classes throughout."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from clpds.data.samples import chapters
from clpds.models import trelm

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
GQA: dict[str, Any] = {**SMALL, "num_key_value_heads": 2}
# name -> (class, config arguments)
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gpt_neox": ("GPTNeoXForCausalLM", SMALL),
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "opt": (
        "OPTForCausalLM",
        {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 128},
    ),
    "llama": ("LlamaForCausalLM", GQA),
    "mistral": ("MistralForCausalLM", GQA),
    "qwen2": ("Qwen2ForCausalLM", GQA),
    "qwen3": ("Qwen3ForCausalLM", {**GQA, "head_dim": 16}),
    "gemma": ("GemmaForCausalLM", {**GQA, "head_dim": 8}),
    "bert": ("BertForMaskedLM", {**SMALL, "max_position_embeddings": 128}),
    "roberta": ("RobertaForMaskedLM", {**SMALL, "max_position_embeddings": 130}),
    "xlm-roberta": ("XLMRobertaForMaskedLM", {**SMALL, "max_position_embeddings": 130}),
}
# those of clpds, which the tables of transformers' families do not hold
TRELM: dict[str, tuple[str, dict[str, Any]]] = {
    "trelm-bert": ("TrelmBertForMaskedLM", {**SMALL, "num_hidden_layers": 4, "max_position_embeddings": 128}),
    "trelm-roberta": ("TrelmRobertaForMaskedLM", {**SMALL, "num_hidden_layers": 4, "max_position_embeddings": 130}),
}
CAUSAL = ("gpt2", "gpt_neox", "bloom", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma")


def tiny_model(
    shape: str,
    vocab_size: int,
    *,
    tied: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> PreTrainedModel:
    """A model with random weights, norms and biases included, so that no mistake hides behind zeros."""
    class_name, arguments = {**SHAPES, **TRELM}[shape]
    cls = getattr(trelm if shape in TRELM else transformers, class_name)
    config = cls.config_class(
        **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
        | arguments
        | {"vocab_size": vocab_size, "tie_word_embeddings": tied}
        | changes
    )
    torch.manual_seed(seed)
    model = cls(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.tie_weights()
    return model.to(dtype).eval()


@cache
def text(language: str = "de", count: int = 40) -> tuple[str, ...]:
    """The first chapters of a Bible version: real text, a string a chapter."""
    return tuple("\n".join(verses) for verses in list(chapters(language).values())[:count])


@cache
def tiny_tokenizer(family: str, language: str = "de", vocab_size: int = 600) -> PreTrainedTokenizerFast:
    """Train a tokenizer: ``byte_bpe`` (GPT-2), ``sp_bpe`` (Llama 2), ``unigram`` (XLM-R), ``wordpiece`` (BERT)."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer: Any
    if family == "byte_bpe":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(roles.values()),
            initial_alphabet=alphabet,
            show_progress=False,
        )
    elif family == "sp_bpe":
        backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[*roles.values(), *bytes_],
            show_progress=False,
            max_token_length=12,
        )
    elif family == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        roles = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        roles |= {"mask_token": "<mask>"}
        trainer = trainers.UnigramTrainer(
            vocab_size=vocab_size, special_tokens=list(roles.values()), unk_token="<unk>", show_progress=False
        )
    else:
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=False)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        roles |= {"mask_token": "[MASK]"}
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=list(roles.values()), show_progress=False
        )
    backend.train_from_iterator(text(language), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def save_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """``save_pretrained`` of both."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder
