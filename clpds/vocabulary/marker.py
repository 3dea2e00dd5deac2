"""How a tokenizer writes text for its model, found by handing its pipeline a text; light, since workers import it."""

import re

import numpy as np
from tokenizers import Tokenizer

LETTERS = "éжअ中"  # a pipeline may take the accent off the first; some letter is left as it is, or becomes its bytes


def written(tokenizer: Tokenizer, text: str) -> str:
    """What the model of ``tokenizer`` is given of ``text``, all words in one string."""
    if tokenizer.normalizer:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer:
        text = "".join(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    return text


def space_marker(tokenizer: Tokenizer) -> str | None:
    """What stands for a space between two words: ``▁``, ``Ġ``, or a space; None where nothing does."""
    found = re.search("a(.+)b", written(tokenizer, "a b"), re.DOTALL | re.IGNORECASE)
    return found[1] if found else None


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether letters reach the model as bytes, each a character of the alphabet that GPT-2 fixed."""
    return any(spell(letter.encode()) in written(tokenizer, letter) for letter in LETTERS)


def markers_only(tokenizer: Tokenizer) -> np.ndarray:
    """Whether a token is nothing but markers for spaces, by id: bool (V,)."""
    vocabulary, marker = tokenizer.get_vocab(with_added_tokens=True), space_marker(tokenizer)
    only = np.zeros(max(vocabulary.values(), default=-1) + 1, bool)
    if marker and not marker.isspace():
        only[[id_ for token, id_ in vocabulary.items() if token and not token.replace(marker, "")]] = True
    return only


def byte_alphabet() -> dict[str, int]:
    """Character to byte, as GPT-2 fixed it: printable Latin-1 stands for itself, the rest moves to 256 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(moved)}


_CHARACTERS = {byte: character for character, byte in byte_alphabet().items()}


def spell(text: bytes) -> str:
    """The bytes in that alphabet."""
    return "".join(_CHARACTERS[byte] for byte in text)
