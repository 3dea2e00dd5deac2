"""A token cut into another tokenizer's tokens: the other's own cut, whatever it puts before a text."""

import pytest
from tokenizers import normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from clpds.vocabulary.overlap import overlap
from clpds.vocabulary.pieces import pieces
from clpds.vocabulary.segments import segment
from tests.tiny import tiny_tokenizer


@pytest.mark.parametrize("family", ["byte_bpe", "sp_bpe", "unigram", "wordpiece"])
def test_segments_spell_the_token_in_any_family(family: str) -> None:
    source, target = tiny_tokenizer(family, "en"), tiny_tokenizer("byte_bpe", "de")
    ids = overlap(source, target).missing.tolist()
    cut, known, wanted = segment(source, target, ids), pieces(source), pieces(target)
    spelled = {id_: b"".join(known[piece].bytes for piece in parts) for id_, parts in cut.items()}
    exact = {id_ for id_ in spelled if spelled[id_] == wanted[id_].bytes}
    alphabet = {piece.bytes for piece in known.values() if len(piece.bytes) == 1}
    fragments = {id_ for id_ in ids if id_ in wanted and all(bytes([byte]) in alphabet for byte in wanted[id_].bytes)}
    assert any(not wanted[id_].bytes.startswith(b" ") and len(wanted[id_].bytes) > 2 for id_ in fragments)
    assert fragments <= exact  # no space slipped in before the inside of a word
    if family == "wordpiece":  # which cuts the inside of a word so
        for id_ in fragments:
            text, first = wanted[id_].bytes, known[cut[id_][0]].bytes
            longest = max((piece.bytes for piece in known.values() if text.startswith(piece.bytes)), key=len)
            assert first == longest or text.startswith(b" ")
    if family in ("byte_bpe", "sp_bpe"):  # these have all bytes, umlauts and halves of them included
        assert exact == {id_ for id_ in ids if id_ in wanted}


def with_prefix(layout: str) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before every text, in one of the ways in which files say so, and a BOS."""
    family = {"byte level": "byte_bpe", "unigram": "unigram", "after WhitespaceSplit": "unigram"}.get(layout, "sp_bpe")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(family, "en").backend_tokenizer)
    backend = tokenizer.backend_tokenizer
    if layout == "Llama 2":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    elif layout == "byte level":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif layout == "after WhitespaceSplit":
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


@pytest.mark.parametrize("layout", ["Llama 2", "Metaspace", "byte level", "unigram", "after WhitespaceSplit"])
def test_the_cut_is_that_of_the_sources_model(layout: str) -> None:
    """The model of `tokenizers` by itself is asked, which no pipeline puts anything before."""
    source, target = with_prefix(layout), tiny_tokenizer("wordpiece", "de")
    known, wanted = pieces(source), pieces(target)
    cut = segment(source, target, list(wanted))
    alone = source.backend_tokenizer.model.tokenize
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    compared = greedy = 0
    for id_, piece in wanted.items():
        text = piece.bytes.decode()
        spelling = alphabet.pre_tokenize_str(text)[0][0] if layout == "byte level" else text.replace(" ", "▁")
        ids = [token.id for token in alone(spelling)]
        if all(one in known for one in ids):  # no unknown letter
            assert cut[id_] == ids, text
            compared += 1
            longest = max((known[one].bytes for one in known if piece.bytes.startswith(known[one].bytes)), key=len)
            greedy += known[ids[0]].bytes == longest
    assert compared > 400
    assert greedy < compared or layout != "Llama 2"  # a stand-in that takes the longest pieces is another cut


def test_text_tokens_go_before_the_byte_tokens_that_training_hardly_saw() -> None:
    source, target = tiny_tokenizer("sp_bpe", "en"), tiny_tokenizer("byte_bpe", "de")
    known, wanted = pieces(source), pieces(target)
    text = {piece.bytes for piece in known.values() if piece.kind == "text"}
    byte = {piece.bytes for piece in known.values() if piece.kind == "byte"}
    assert b"a" in text & byte
    # Parts of UTF-8 sequences too, which the source's tokenizer cannot be asked for.
    for id_, parts in segment(source, target, list(wanted)).items():
        assert not any(known[part].kind == "byte" and known[part].bytes in text for part in parts), wanted[id_]
