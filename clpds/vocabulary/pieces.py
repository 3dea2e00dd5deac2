"""What each token stands for: the bytes of its text, whatever alphabet its tokenizer spells them in.

How it spells is found by handing its pipeline a text, never read off a class's name or a file's layout:

- byte-level BPE (GPT-2, Llama 3): one character of the alphabet a byte, ``Ġ`` is the space;
- a marker for the space (SentencePiece BPE and unigram): ``▁``, with ``<0xNN>`` for single bytes;
- a prefix for the inside of a word (WordPiece): ``##en`` is ``en``, ``Gott`` is a space and ``Gott``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from clpds.errors import UserError
from clpds.tokenizer_files import BYTE_TOKEN
from clpds.vocabulary.marker import byte_alphabet, is_byte_level, space_marker, spell
from clpds.vocabulary.tokenizer import backend, token_ids

Kind = Literal["text", "byte"]


@dataclass(frozen=True)
class Piece:
    """Canonical identity of a token that is not special."""

    kind: Kind
    """``byte``: a lone byte that is no text by itself, or the byte-fallback token of a byte that is."""
    bytes: bytes
    """UTF-8, or a part of it; a token that begins a word has the space before it as its first byte."""


def pieces(tokenizer: PreTrainedTokenizerBase) -> dict[int, Piece]:
    """Id to piece for every token that is not special, by ascending id.

    Raises UserError where the pipeline does not show which tokens begin a word.
    """
    pipeline = backend(tokenizer)
    piece_of = _spelling(tokenizer, pipeline)
    added = {token["id"] for token in pipeline["added_tokens"]}
    special = special_tokens(tokenizer)
    found = {}
    for token, id_ in token_ids(tokenizer).items():
        if (byte := _fallback_byte(tokenizer, token)) is not None:
            found[id_] = Piece("byte", byte)
        elif id_ not in special:
            found[id_] = piece_of(token, id_ in added)
    return found


def respelling(tokenizer: PreTrainedTokenizerBase) -> Callable[[Piece], str | None]:
    """The function piece -> how ``tokenizer`` would spell it, None for a piece that it has no spelling for."""
    pipeline = backend(tokenizer)
    piece_of, marker = _spelling(tokenizer, pipeline), space_marker(tokenizer.backend_tokenizer)
    prefix = pipeline["model"].get("continuing_subword_prefix")

    def respell(piece: Piece) -> str | None:
        text = piece.bytes.decode(errors="replace")
        spellings = [spell(piece.bytes)]
        if prefix and (marker or " ").isspace():
            spellings += [text.removeprefix(" "), f"{prefix}{text}"]
        else:
            spellings += [text.replace(" ", marker or " ")]
        return next((one for one in spellings if one and piece_of(one, False) == piece), None)

    return respell


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id to spelling of the tokens that stand for no text, by ascending id."""
    flagged = {id_: token.content for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    special = sorted((flagged | named).items())
    # Some files flag the byte-fallback tokens as special, which they are not.
    return {id_: token for id_, token in special if _fallback_byte(tokenizer, token) is None}


def _fallback_byte(tokenizer: PreTrainedTokenizerBase, token: str) -> bytes | None:
    """The byte that ``<0xNN>`` stands for, in models that fall back to bytes."""
    match = BYTE_TOKEN.fullmatch(token)
    if match is None or not getattr(tokenizer.backend_tokenizer.model, "byte_fallback", False):
        return None
    return bytes.fromhex(match[1])


def _spelling(tokenizer: PreTrainedTokenizerBase, pipeline: dict[str, Any]) -> Callable[[str, bool], Piece]:
    """The function (spelling, whether added) -> piece of this pipeline."""
    model, marker = pipeline["model"], space_marker(tokenizer.backend_tokenizer)
    if model.get("end_of_word_suffix"):
        raise UserError(f"tokenizers that mark the end of a word ({model['end_of_word_suffix']}) are not supported")
    if is_byte_level(tokenizer.backend_tokenizer):
        return _byte_level
    if marker and not marker.isspace():
        return lambda token, added: Piece("text", token.replace(marker, " ").encode())
    if prefix := model.get("continuing_subword_prefix"):
        return _word_pieces(tokenizer, prefix)
    if marker:  # the model sees spaces as they are
        return lambda token, added: Piece("text", token.encode())
    raise UserError(
        f"the tokenizer's pipeline ({model['type']}) has neither a byte-level alphabet nor a marker for spaces "
        "nor a prefix for the inside of words; which of its tokens begin a word is unknown"
    )


_ALPHABET = byte_alphabet()
_BYTES = {ord(character): byte for character, byte in _ALPHABET.items()}  # which Latin-1 spells as themselves


def _byte_level(token: str, added: bool) -> Piece:
    # Added tokens are cut out of the text before the alphabet is applied: they are spelt as they are.
    if added or not _ALPHABET.keys() >= set(token):
        return Piece("text", token.encode())
    found = token.translate(_BYTES).encode("latin-1")
    return Piece("byte" if len(found) == 1 and found[0] >= 0x80 else "text", found)


def _word_pieces(tokenizer: PreTrainedTokenizerBase, prefix: str) -> Callable[[str, bool], Piece]:
    normalizer, pre_tokenizer = tokenizer.backend_tokenizer.normalizer, tokenizer.backend_tokenizer.pre_tokenizer

    def cut_off(token: str) -> bool:
        """Whether the token is a word of its own even where no space is before it.

        Punctuation and Chinese characters are. Such a token never has the prefix, which tells
        nothing then; most punctuation follows a word at once, so it counts as not word-initial.
        """
        text = normalizer.normalize_str(f"a{token}") if normalizer else f"a{token}"
        words = pre_tokenizer.pre_tokenize_str(text) if pre_tokenizer else []
        return len(words) > 1 and words[0][0] == "a"

    def spell(token: str, added: bool) -> Piece:
        if token.startswith(prefix) and len(token) > len(prefix) and not added:
            return Piece("text", token[len(prefix) :].encode())
        return Piece("text", (token if added or cut_off(token) else f" {token}").encode())

    return spell
