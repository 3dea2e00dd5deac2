"""Pairs of vocabularies that share some tokens, and embeddings in which a shared token means the same."""

import string
import zlib
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, PreTrainedTokenizerFast

from clpds.vocabulary.tokenizer import declare_class

END = "<|endoftext|>"
LATENT = 64  # dimensions of meaning
MEAN = 0.58  # of an embedding, in standard deviations: mean cosine 0.25, about that of GPT-2's rows


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, and what each means."""

    tokens: list[str]
    meaning: Tensor
    """(V, LATENT) float32; a token that two vocabularies share has the same row in both."""

    def embedding(self, name: str, width: int) -> Tensor:
        """(V, width) float32, as large as GPT-2's: meaning seen through the model ``name``, with noise and a mean."""
        generator = _seeded(name)
        view = torch.randn(LATENT, width, generator=generator) / LATENT**0.5
        mean = torch.randn(width, generator=generator) * MEAN
        noise = torch.randn(len(self.tokens), width, generator=generator) * 0.3
        return (self.meaning @ view + mean + noise) * 0.02

    def save(self, folder: Path) -> Path:
        """A byte-level tokenizer that AutoTokenizer opens; its merges are left out, for no text is read with it."""
        ids = {token: id_ for id_, token in enumerate(self.tokens)}
        tokenizer = Tokenizer(models.BPE(ids, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(END, special=True)])
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)
        fast.save_pretrained(folder)
        declare_class(folder / "tokenizer_config.json")
        return folder


def two_layers(size: int, width: int) -> GPT2Config:
    """GPT-2's shape under such a vocabulary, as shallow as it goes: what is measured is the vocabulary's."""
    return GPT2Config(vocab_size=size, n_embd=width, n_layer=2, n_head=width // 64, bos_token_id=0, eos_token_id=0)


def vocabulary(name: str, size: int, shared: int) -> Vocabulary:
    """``size`` tokens in an order of its own, ``shared`` of which every vocabulary has that shares as many."""
    common = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens = common + _words("common", shared - len(common)) + _words(name, size - shared)
    sets = (("common", shared), (name, size - shared))
    meaning = torch.cat([torch.randn(count, LATENT, generator=_seeded(of)) for of, count in sets])
    order = torch.randperm(size, generator=_seeded(name))
    return Vocabulary([tokens[place] for place in order.tolist()], meaning[order])


def _words(name: str, count: int) -> list[str]:
    letters = product(string.ascii_lowercase, repeat=4)
    return [f"Ġ{name}{''.join(word)}" for word in islice(letters, count)]


def _seeded(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))
