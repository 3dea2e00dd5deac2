"""Overlap by meaning, across families, on tokenizers trained on the same German text."""

from itertools import permutations

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clpds.vocabulary.overlap import Overlap, coverage, overlap
from clpds.vocabulary.tokenizer import token_ids
from tests.tiny import tiny_tokenizer
from tests.vocabulary.made import byte_level

FAMILIES = ("byte_bpe", "sp_bpe", "unigram", "wordpiece")
WORDS = ("Gott", "und", "der", "für", "über", "Söhne", "Männer", "sprach", "großen", "Brüder")


def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    return tiny_tokenizer(family, vocab_size=2000)


def _spelled(family: str, word: str, *, initial: bool) -> str:
    """The word as one token of the family, written by hand."""
    if family == "wordpiece":
        return word if initial else f"##{word}"
    if family == "byte_bpe":
        return "".join(p for p, _ in pre_tokenizers.ByteLevel(False).pre_tokenize_str(f" {word}" if initial else word))
    return f"▁{word}" if initial else word


def _pairs(found: Overlap) -> dict[int, int]:
    return dict(zip(found.target.tolist(), found.source.tolist(), strict=True))


@pytest.mark.parametrize(("source", "target"), permutations(FAMILIES, 2))
def test_a_word_finds_itself_in_another_family(source: str, target: str) -> None:
    source_ids, target_ids = token_ids(_tokenizer(source)), token_ids(_tokenizer(target))
    found = overlap(_tokenizer(source), _tokenizer(target))
    pairs = _pairs(found)
    checked = []
    for word in (*WORDS, "en", "ten", "er", "ung", "ä", "ß"):
        for initial in (True, False):
            ours, theirs = _spelled(target, word, initial=initial), _spelled(source, word, initial=initial)
            if ours in target_ids:
                assert pairs.get(target_ids[ours]) == source_ids.get(theirs), (ours, theirs)
                checked.append((word, initial, theirs in source_ids))
    assert ("Gott", True, True) in checked
    assert any(initial and shared and not word.isascii() for word, initial, shared in checked)
    assert any(not initial and shared for word, initial, shared in checked)


@pytest.mark.parametrize(("source", "target"), [(a, b) for a in FAMILIES for b in FAMILIES])
def test_each_target_id_is_shared_or_missing(source: str, target: str) -> None:
    found = overlap(_tokenizer(source), _tokenizer(target))
    both = torch.cat([found.target, found.missing])
    assert sorted(both.tolist()) == sorted(token_ids(_tokenizer(target)).values())
    assert found.target.tolist() == sorted(found.target.tolist())
    assert found.missing.tolist() == sorted(found.missing.tolist())
    assert {tensor.dtype for tensor in (found.target, found.source, found.missing)} == {torch.int64}
    assert sum(found.how.values()) == len(found.target)
    assert set(found.source.tolist()) <= set(token_ids(_tokenizer(source)).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_overlaps_itself_row_by_row(family: str) -> None:
    found = overlap(_tokenizer(family), _tokenizer(family))
    assert torch.equal(found.target, found.source)
    assert len(found.missing) == 0


def test_inside_a_word_is_another_token() -> None:
    source, target = byte_level([], {"Ġder": 256}), byte_level([], {"der": 256, "Ġder": 257})
    found = overlap(source, target)
    assert found.missing.tolist() == [256]
    assert _pairs(found)[257] == 256


def test_all_bytes_find_the_same_byte() -> None:
    """Byte-level tokens that are parts of characters must not fall together as replacement characters."""
    byte_bpe, other, sp_bpe = tiny_tokenizer("byte_bpe"), byte_level(["<s>"]), tiny_tokenizer("sp_bpe")
    byte_ids, sp_ids = token_ids(byte_bpe), token_ids(sp_bpe)
    pairs = _pairs(overlap(byte_bpe, other))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    assert {token: pairs[token_ids(other)[token]] for token in alphabet} == {t: byte_ids[t] for t in alphabet}

    # Half of the byte-level ones are ASCII and so text; byte fallback has none but for bytes.
    assert overlap(byte_bpe, other).how["byte"] == 128
    assert overlap(byte_bpe, sp_bpe).how["byte"] == 256

    to_fallback, from_fallback = _pairs(overlap(byte_bpe, sp_bpe)), _pairs(overlap(sp_bpe, byte_bpe))
    fallbacks = [sp_ids[f"<0x{byte:02X}>"] for byte in range(256)]
    assert sorted(to_fallback[id_] for id_ in fallbacks) == sorted(byte_ids[token] for token in alphabet)
    for id_ in fallbacks[0x80:]:
        assert from_fallback[to_fallback[id_]] == id_
    for byte, id_ in enumerate(fallbacks[:0x80]):
        # A byte that is text by itself is better off with the text token, where the other side has one.
        assert from_fallback[to_fallback[id_]] == sp_ids.get("▁" if byte == 0x20 else chr(byte), id_)
        assert to_fallback[id_] == byte_ids[_spelled("byte_bpe", chr(byte), initial=False)]


def test_of_two_source_tokens_for_one_text_the_one_spelt_alike_is_taken() -> None:
    source, target = byte_level([], {"ĠĠ": 256}), byte_level([], {"ĠĠ": 300})
    for tokenizer in (source, target):
        tokenizer.add_tokens(["  "])
    pairs = _pairs(overlap(source, target))
    for token in ("ĠĠ", "  "):
        assert pairs[token_ids(target)[token]] == token_ids(source)[token]


def test_two_targets_may_share_a_row_and_holes_are_in_neither() -> None:
    source = byte_level(["<|end|>"], bos_token="<|end|>", eos_token="<|end|>")
    target = byte_level(["<s>", "</s>"], {"Gott": 400}, bos_token="<s>", eos_token="</s>")
    found = overlap(source, target)
    assert found.target.tolist() == list(range(258))
    assert found.rows == 401
    assert found.missing.tolist() == [400]
    assert (_pairs(found)[256], _pairs(found)[257]) == (256, 256)


def test_coverage_is_one_line() -> None:
    found = Overlap(
        torch.arange(7153), torch.arange(7153), torch.arange(9106), 16259, {"text": 6890, "byte": 256, "special": 7}
    )
    assert coverage(found) == "7,153 of 16,259 tokens shared (44.0 %): 6,890 text, 256 byte, 7 special"
