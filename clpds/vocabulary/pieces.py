"""What each token stands for: the bytes of its text, whatever alphabet its tokenizer spells them in.

The spelling is read off the tokenizer's own pipeline (``tokenizer.json``), never off a class name:

- byte-level BPE (GPT-2, Llama 3): one character of the alphabet a byte, ``Ġ`` is the space;
- a marker for the space (SentencePiece BPE and unigram): ``▁``, with ``<0xNN>`` for single bytes;
- a prefix for the inside of a word (WordPiece): ``##en`` is ``en``, ``Gott`` is a space and ``Gott``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from clpds.errors import UserError
from clpds.tokenizer_files import BYTE_TOKEN
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
    spell = _spelling(tokenizer, pipeline)
    added = {token["id"] for token in pipeline["added_tokens"]}
    special = special_tokens(tokenizer)
    found = {}
    for token, id_ in token_ids(tokenizer).items():
        if (byte := _fallback_byte(tokenizer, token)) is not None:
            found[id_] = Piece("byte", byte)
        elif id_ not in special:
            found[id_] = spell(token, id_ in added)
    return found


def respelling(tokenizer: PreTrainedTokenizerBase) -> Callable[[Piece], str | None]:
    """The function piece -> how ``tokenizer`` would spell it, None for a piece that it has no spelling for."""
    pipeline = backend(tokenizer)
    spell, marker = _spelling(tokenizer, pipeline), _marker(pipeline)
    prefix = pipeline["model"].get("continuing_subword_prefix")

    def respell(piece: Piece) -> str | None:
        text = piece.bytes.decode(errors="replace")
        spellings = ["".join(_CHARACTERS[byte] for byte in piece.bytes)]
        spellings += [text.replace(" ", marker)] if marker else [text.removeprefix(" "), f"{prefix}{text}"]
        return next((one for one in spellings if one and spell(one, False) == piece), None)

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
    parts, model = _parts(pipeline), pipeline["model"]
    if model.get("end_of_word_suffix"):
        raise UserError(f"tokenizers that mark the end of a word ({model['end_of_word_suffix']}) are not supported")
    if any(part["type"] == "ByteLevel" for part in parts):
        return _byte_level
    if marker := _marker(pipeline):
        return lambda token, added: Piece("text", token.replace(marker, " ").encode())
    if prefix := model.get("continuing_subword_prefix"):
        return _word_pieces(tokenizer, prefix)
    raise UserError(
        f"the tokenizer's pipeline ({model['type']}) has neither a byte-level alphabet nor a marker for spaces "
        "nor a prefix for the inside of words; which of its tokens begin a word is unknown"
    )


def _marker(pipeline: dict[str, Any]) -> str | None:
    """The character that stands for a space, where there is one."""
    return next((mark for part in _parts(pipeline) if (mark := _space_marker(part))), None)


def _parts(pipeline: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for key in ("normalizer", "pre_tokenizer", "decoder") for part in _walk(pipeline[key])]


def _walk(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A component and all that it is made of."""
    if part is None:
        return
    yield part
    for key in ("normalizers", "pretokenizers", "decoders"):
        for inner in part.get(key, ()):
            yield from _walk(inner)


def _space_marker(part: dict[str, Any]) -> str | None:
    """The character that this component writes for a space, or reads as one."""
    if part["type"] == "Metaspace":
        return str(part["replacement"])
    if part["type"] == "Replace":
        pattern, content = part["pattern"].get("String"), part["content"]
        if pattern == " ":
            return str(content)
        if content == " ":
            return str(pattern)
    return None


def byte_alphabet() -> dict[str, int]:
    """Character to byte, as GPT-2 fixed it: printable Latin-1 stands for itself, the rest moves to 256 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(moved)}


_ALPHABET = byte_alphabet()
_CHARACTERS = {byte: character for character, byte in _ALPHABET.items()}
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
