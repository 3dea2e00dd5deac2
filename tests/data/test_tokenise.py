"""Tokens stand for bytes: every byte of the text once, at the token that ends there."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, processors

from clpds.data.tokenise import is_held_out, spelled_bytes, token_bytes
from clpds.vocabulary.marker import markers_only
from tests.tiny import text, tiny_tokenizer

FAMILIES = ("byte_bpe", "trimming", "sp_bpe", "unigram", "wordpiece")


def backend(family: str) -> Tokenizer:
    """A tokenizer of tests/tiny.py; ``trimming``: byte_bpe whose offsets leave out white space, as GPT-2's do."""
    if family != "trimming":
        return tiny_tokenizer(family).backend_tokenizer
    trimming = Tokenizer.from_str(tiny_tokenizer("byte_bpe").backend_tokenizer.to_str())
    trimming.post_processor = processors.ByteLevel(trim_offsets=True)
    return trimming


def no_markers(encoding: Encoding) -> np.ndarray:
    return np.zeros(len(encoding.ids), bool)


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
    counts = token_bytes(document.encode(), encoding.offsets, no_markers(encoding))
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
    by_offsets = (
        token_bytes(document.encode(), encoding.offsets, no_markers(encoding)).cumsum() if len(sizes) else sizes
    )
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
    assert token_bytes("aä€d".encode(), [(0, 3), (0, 1), (1, 2), (2, 4)], np.zeros(4, bool)).tolist() == [6, 0, 0, 1]


@pytest.mark.parametrize(
    ("document", "tokens", "sizes"),
    [
        ("€o", ["▁", "€", "o"], [0, 3, 1]),
        ("€ €", ["▁", "€", "▁", "€"], [0, 3, 1, 3]),
        (" €", ["▁▁", "€"], [1, 3]),
        ("o", ["▁o"], [1]),
    ],
)
@pytest.mark.parametrize("layout", ["prepended", "first", "byte level"])
def test_a_marker_that_the_text_has_no_space_for_stands_for_no_byte(
    layout: str, document: str, tokens: list[str], sizes: list[int]
) -> None:
    """Llama 2 puts a space before every text, GPT-2 with ``add_prefix_space`` too."""
    marker = "Ġ" if layout == "byte level" else "▁"
    euro = ["â", "Ĥ", "¬"] if layout == "byte level" else ["€"]
    if layout != "prepended" and "▁▁" in tokens:
        tokens, sizes = ["▁", "€"], [1, 3]  # these add no second space
    vocabulary = {token: id_ for id_, token in enumerate([marker, marker * 2, f"{marker}o", "o", *euro])}
    made = Tokenizer(models.BPE(vocabulary, [(marker, marker), (marker, "o")]))
    if layout == "prepended":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif layout == "first":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokens = [part for token in tokens for part in (euro if token == "€" else [token.replace("▁", "Ġ")])]
        sizes = [part for size in sizes for part in ([3, 0, 0] if size == 3 else [size])]
    encoding = made.encode(document)
    assert encoding.tokens == tokens
    found = token_bytes(document.encode(), encoding.offsets, markers_only(made)[encoding.ids])
    assert found.tolist() == sizes


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
