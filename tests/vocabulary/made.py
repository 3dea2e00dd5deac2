"""Byte-level tokenizers with the tokens and roles that a test asks for."""

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def byte_level(
    specials: Sequence[str], words: Mapping[str, int] | None = None, **roles: str
) -> PreTrainedTokenizerFast:
    """Ids from 0: the 256 bytes, then ``specials`` from 256 on; ``words`` have the ids that they are given."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: id_ for id_, token in enumerate([*alphabet, *specials])}
    backend = Tokenizer(models.BPE(vocab=vocabulary | dict(words or {}), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(specials))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
