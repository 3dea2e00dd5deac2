"""The canonical bytes of tokens, against what the tokenizers themselves do with text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clpds.errors import UserError
from clpds.vocabulary.overlap import overlap
from clpds.vocabulary.pieces import Piece, pieces
from tests.tiny import tiny_tokenizer
from tests.vocabulary.made import byte_level

BYTE_BPE = pieces(tiny_tokenizer("byte_bpe"))
SP_BPE = pieces(tiny_tokenizer("sp_bpe"))


def _joined(tokenizer: PreTrainedTokenizerFast, found: dict[int, Piece], text: str) -> bytes:
    return b"".join(found[id_].bytes for id_ in tokenizer(text, add_special_tokens=False).input_ids)


@settings(deadline=None)
@given(st.text())
def test_byte_level_tokens_join_to_the_text(text: str) -> None:
    assert _joined(tiny_tokenizer("byte_bpe"), BYTE_BPE, text) == text.encode()


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), min_size=1))
def test_byte_fallback_tokens_join_to_the_text_behind_one_space(text: str) -> None:
    expected = text if text.startswith(" ") else f" {text}"
    assert _joined(tiny_tokenizer("sp_bpe"), SP_BPE, text) == expected.encode()


def _bytes(tokenizer: PreTrainedTokenizerFast, *tokens: str) -> list[bytes]:
    found = pieces(tokenizer)
    return [found[tokenizer.convert_tokens_to_ids(token)].bytes for token in tokens]


def test_word_initial_tokens_begin_with_a_space_in_every_family() -> None:
    assert _bytes(tiny_tokenizer("byte_bpe"), "Ġder", "der", "Ã", "Ċ") == [b" der", b"der", b"\xc3", b"\n"]
    assert _bytes(tiny_tokenizer("sp_bpe"), "▁der", "der", "<0xC3>", "▁") == [b" der", b"der", b"\xc3", b" "]
    assert _bytes(tiny_tokenizer("unigram"), "▁der", "▁") == [b" der", b" "]
    assert _bytes(tiny_tokenizer("wordpiece"), "der", "##der") == [b" der", b"der"]


def test_wordpiece_punctuation_is_not_word_initial() -> None:
    """BERT cuts it off the word before it, so the lack of ## does not mean a space there."""
    assert _bytes(tiny_tokenizer("wordpiece"), ",", ":", "a") == [b",", b":", b" a"]


def test_special_tokens_are_no_pieces_but_added_text_is() -> None:
    tokenizer = byte_level(["<s>"])
    tokenizer.add_tokens(["   ", AddedToken("größer"), "<custom>"])
    found = pieces(tokenizer)
    assert 256 not in found
    # Cut out of the text before the byte alphabet is applied: "ö" is no byte of it here.
    assert [found[id_].bytes for id_ in (257, 258, 259)] == [b"   ", "größer".encode(), b"<custom>"]


def _remade(family: str, **parts: object) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(tiny_tokenizer(family).backend_tokenizer.to_str())
    for name, part in parts.items():
        setattr(backend, name, part)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tiny_tokenizer(family).special_tokens_map)


REPLACE = normalizers.Replace


@pytest.mark.parametrize(
    "parts",
    [
        # as T5, XLM-R, NLLB and their kin were saved by transformers 4.0 to 4.37
        {"normalizer": normalizers.Sequence([normalizers.NFKC(), REPLACE(Regex(" {2,}"), " ")])},
        {"normalizer": normalizers.Sequence([REPLACE("``", '"'), REPLACE(Regex("x"), " ")])},
        {"normalizer": REPLACE(" ", "▁"), "pre_tokenizer": None},  # Gemma
        {"normalizer": REPLACE(Regex(r"\s"), "▁"), "pre_tokenizer": None},
        {"decoder": None},
    ],
)
def test_the_marker_is_what_the_pipeline_makes_of_a_space(parts: dict[str, object]) -> None:
    plain, source = tiny_tokenizer("unigram"), tiny_tokenizer("byte_bpe")
    made = _remade("unigram", **parts)
    assert pieces(made) == pieces(plain)
    assert overlap(source, made).how == overlap(source, plain).how


def test_the_byte_alphabet_is_found_wherever_the_pipeline_applies_it() -> None:
    made = _remade("byte_bpe", normalizer=normalizers.ByteLevel(), pre_tokenizer=None, decoder=None)
    assert pieces(made) == BYTE_BPE


def test_a_pipeline_that_leaves_spaces_as_they_are_has_tokens_with_spaces() -> None:
    made = Tokenizer(models.BPE({" ": 0, "a": 1, " a": 2}, [(" ", "a")]))
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    found = pieces(PreTrainedTokenizerFast(tokenizer_object=made))
    assert [piece.bytes for piece in found.values()] == [b" ", b"a", b" a"]


def test_byte_fallback_needs_a_model_that_falls_back() -> None:
    assert _bytes(byte_level([], {"<0x41>": 256}), "<0x41>") == [b"<0x41>"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.BPE(vocab={"a</w>": 0}, merges=[], end_of_word_suffix="</w>"), "mark the end of a word"),
        (models.BPE(vocab={"a": 0}, merges=[]), "which of its tokens begin a word is unknown"),
    ],
)
def test_pipelines_that_hide_where_words_begin_are_refused(model: models.Model, message: str) -> None:
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(UserError, match=message):
        pieces(PreTrainedTokenizerFast(tokenizer_object=backend))
