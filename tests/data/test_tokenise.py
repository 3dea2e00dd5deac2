"""Tokens stand for bytes: every byte of the text once, at the token that ends there."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers, processors

from clpds.data.tokenise import is_held_out, spelled_bytes, token_bytes
from tests.tiny import text, tiny_tokenizer

FAMILIES = ("byte_bpe", "trimming", "sp_bpe", "unigram", "wordpiece")


def backend(family: str) -> Tokenizer:
    """A tokenizer of tests/tiny.py; ``trimming``: byte_bpe whose offsets leave out white space, as GPT-2's do."""
    if family != "trimming":
        return tiny_tokenizer(family).backend_tokenizer
    trimming = Tokenizer.from_str(tiny_tokenizer("byte_bpe").backend_tokenizer.to_str())
    trimming.post_processor = processors.ByteLevel(trim_offsets=True)
    return trimming


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
@example("  zwei  Leerzeichen \n\n und 😀 €uro e\u0301 中文 ")
@example(text("de")[0])
def test_token_bytes_are_those_up_to_the_furthest_character_so_far(family: str, document: str) -> None:
    encoding = backend(family).encode(document, add_special_tokens=False)
    if not encoding.ids:
        return
    naive = []
    for last in range(1, len(encoding.ids) + 1):
        furthest = max(end for _, end in encoding.offsets[:last])
        naive.append(len(document[: furthest if last < len(encoding.ids) else None].encode()))
    counts = token_bytes(document.encode(), encoding.offsets)
    assert counts.cumsum().tolist() == naive
    assert counts.min() >= 0
    assert counts.sum() == len(document.encode())


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
@example("  zwei  Leerzeichen \n\n und 😀 €uro e\u0301 中文 <s> ")
@example(text("de")[0])
def test_byte_level_tokens_stand_for_as_many_bytes_as_they_spell(document: str) -> None:
    spelled = spelled_bytes(backend("byte_bpe"))
    assert spelled is not None
    encoding = backend("byte_bpe").encode(document, add_special_tokens=False)
    sizes = spelled[np.array(encoding.ids, int)]
    assert sizes.sum() == len(document.encode())
    # Between two characters both ways of counting have come to the same byte.
    by_offsets = token_bytes(document.encode(), encoding.offsets).cumsum() if len(sizes) else sizes
    ends, raw = sizes.cumsum(), document.encode()
    whole = [place for place, end in enumerate(ends) if end == len(raw) or raw[end] & 0xC0 != 0x80]
    assert ends[whole].tolist() == by_offsets[whole].tolist()


@pytest.mark.parametrize("family", ["sp_bpe", "unigram", "wordpiece", "prefixed"])
def test_other_tokens_tell_their_bytes_only_in_a_text(family: str) -> None:
    if family == "prefixed":
        made = Tokenizer.from_str(backend("byte_bpe").to_str())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        assert spelled_bytes(made) is None
    else:
        assert spelled_bytes(backend(family)) is None


def test_a_token_that_ends_before_the_furthest_stands_for_nothing() -> None:
    assert token_bytes("aä€d".encode(), [(0, 3), (0, 1), (1, 2), (2, 4)]).tolist() == [6, 0, 0, 1]


def test_the_share_held_out_is_the_fraction_and_grows_with_it() -> None:
    documents = [f"Dokument {number}".encode() for number in range(4000)]
    for seed in (-1, 0, 7):
        sides = {fraction: [is_held_out(raw, seed, fraction) for raw in documents] for fraction in (0, 0.1, 0.3, 1)}
        assert not any(sides[0])
        assert all(sides[1])
        assert sum(sides[0.1]) == pytest.approx(400, abs=60)
        assert sum(sides[0.3]) == pytest.approx(1200, abs=100)
        assert all(more >= less for more, less in zip(sides[0.3], sides[0.1], strict=True))
    assert [is_held_out(raw, 0, 0.5) for raw in documents] != [is_held_out(raw, 1, 0.5) for raw in documents]
