"""Masked language modelling (Devlin et al. 2019, arXiv 1810.04805): fill gaps from both sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from clpds.data.blocks import IGNORED, Batch
from clpds.data.pairs import PairBatch
from clpds.errors import UserError
from clpds.models.encoder import forward_at, require_encoder
from clpds.models.layout import trimmed
from clpds.vocabulary.pieces import special_tokens
from clpds.vocabulary.tokenizer import token_ids

MASKS = 3  # what a random stream is for, beside those of data/order.py
MASKED, RANDOM = 0.8, 0.1  # of the chosen tokens; the rest stay as they are

B = TypeVar("B", Batch, PairBatch)


@dataclass(frozen=True, eq=False)
class Masked:
    """A share of each block's tokens is to be predicted; only their positions go through the output matrix."""

    mask_id: int
    ordinary: np.ndarray
    """Ids of all tokens but the special ones, ascending, int64: what may be chosen, and drawn as a replacement."""
    share: float
    """Of the tokens that may be chosen, how many are."""
    single: bool = False
    """Each block has one document, and padding behind it."""
    micro_batch: int = 1
    """Blocks of a forward pass."""
    every_token: bool = False

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, share: float, name: str, **more: Any) -> Self:
        """For this vocabulary, with ``more`` fields of a subclass; UserError that gives ``name`` if it has no mask."""
        if tokenizer.mask_token_id is None:
            raise UserError(f"the tokenizer of {name} has no mask token; masked language modelling needs one")
        special = special_tokens(tokenizer)
        ordinary = [id_ for id_ in token_ids(tokenizer).values() if id_ not in special]
        return cls(tokenizer.mask_token_id, np.array(ordinary, np.int64), share, **more)

    def check(self, model: nn.Module) -> None:
        """Raise UserError for what is no encoder with a masked language model's head."""
        require_encoder(model, single=self.single, micro_batch=self.micro_batch)

    def prepare(self, batch: B, samples: Sequence[int], seed: int) -> B:
        """Hide tokens: ``labels`` keep those to predict, ``input_ids`` lose them; positions stay.

        Of the chosen tokens 80 % become the mask token, 10 % a random one, 10 % stay. Special tokens are not chosen,
        nor is padding, nor a token that is alone in its document and so has nothing to be told from.
        """
        ids, labels = batch.input_ids.numpy().copy(), np.full(batch.labels.shape, IGNORED, np.int64)
        together = batch.labels.numpy() != IGNORED
        together[:, :-1] |= together[:, 1:]  # the first token of a document, which has no label for a causal model
        for row, sample in enumerate(samples):
            random = np.random.default_rng([seed % 2**64, MASKS, sample])
            places = np.flatnonzero(together[row] & np.isin(ids[row], self.ordinary))
            chosen = random.permutation(places)[: _rounded(self.share * len(places), random)]
            labels[row, chosen] = ids[row, chosen]
            fate = random.random(len(chosen))
            drawn = random.choice(self.ordinary, len(chosen))
            hidden = np.where(fate < MASKED, self.mask_id, np.where(fate < MASKED + RANDOM, drawn, ids[row, chosen]))
            ids[row, chosen] = hidden
        return batch._replace(input_ids=torch.from_numpy(ids), labels=torch.from_numpy(labels))

    def count(self, batch: Batch) -> int:
        """Chosen tokens."""
        return int((batch.labels != IGNORED).sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Negative log likelihood of the chosen tokens in nats (float32 scalar)."""
        if self.single:
            batch = trimmed(batch)
        chosen = batch.labels != IGNORED
        return nll_sum(forward_at(model, batch, chosen).logits[0], batch.labels[chosen])


def nll_sum(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum of the negative log likelihoods in nats (float32 scalar) of ``wanted`` (M,) under ``logits`` (M, V)."""
    return F.cross_entropy(logits.to(torch.float32), wanted, reduction="sum")


def _rounded(number: float, random: np.random.Generator) -> int:
    """A whole number whose mean is ``number``."""
    return int(number + random.random())
