"""Extended tokenizers on real text: what is new is used, and what was there stays."""

import json
from functools import cache
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from clpds.errors import UserError
from clpds.vocabulary.extend import Extension, extend, save_extended
from clpds.vocabulary.overlap import overlap
from clpds.vocabulary.pieces import pieces
from clpds.vocabulary.tokenizer import load_tokenizer, rows_needed, token_ids
from tests.tiny import text, tiny_tokenizer

FAMILIES = ("byte_bpe", "sp_bpe", "unigram", "wordpiece")


def extended(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase) -> Extension:
    return extend(source, target, overlap(source, target).missing.tolist())


def saved(source: PreTrainedTokenizerBase, extension: Extension, folder: Path) -> PreTrainedTokenizerBase:
    (folder / "source").mkdir()
    (folder / "out").mkdir()
    source.save_pretrained(folder / "source")
    save_extended(extension, source, folder / "source", folder / "out")
    return load_tokenizer(folder / "out")


def ids(tokenizer: PreTrainedTokenizerBase, of: str) -> list[int]:
    return tokenizer.encode(of, add_special_tokens=False)


@pytest.mark.parametrize("target_family", FAMILIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_old_tokens_keep_their_ids_and_new_ones_are_used(family: str, target_family: str, tmp_path: Path) -> None:
    source, target = tiny_tokenizer(family, "en"), tiny_tokenizer(target_family, "de")
    extension = extended(source, target)
    new = saved(source, extension, tmp_path)
    old_ids, new_ids = token_ids(source), token_ids(new)
    assert {token: new_ids[token] for token in old_ids} == old_ids
    assert len(new_ids) == len(old_ids) + len(extension.added)
    assert sorted(new_ids.values())[-1] == rows_needed(source) + len(extension.added) - 1
    wanted, found = pieces(target), pieces(new)
    for place, id_ in enumerate(extension.added):
        assert found[extension.first + place].bytes == wanted[id_].bytes
    german = "\n".join(text("de"))
    before, after = ids(source, german), ids(new, german)
    # WordPiece made one [UNK] of many a German word.
    assert len(after) < (1 if family == "wordpiece" else 0.9) * len(before)
    assert len({id_ for id_ in after if id_ >= extension.first}) > 0.7 * len(extension.added)
    assert new.decode(ids(new, "Im Anfang schuf Gott")) == "Im Anfang schuf Gott"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(german).input_ids == new(german).input_ids


@pytest.mark.parametrize("target_family", ["byte_bpe", "unigram"])
@pytest.mark.parametrize("family", ["byte_bpe", "sp_bpe", "unigram"])
@pytest.mark.parametrize("language", ["en", "de"])
def test_the_old_tokens_in_place_of_the_new_are_the_old_cut(
    language: str, family: str, target_family: str, tmp_path: Path
) -> None:
    source, target = tiny_tokenizer(family, "en"), tiny_tokenizer(target_family, "de")
    extension = extended(source, target)
    new = saved(source, extension, tmp_path)
    model, first = source.backend_tokenizer.model, extension.first
    compared = 0
    for line in "\n".join(text(language, 10)).splitlines():
        old = ids(source, line)
        if source.unk_token_id in old:
            continue  # new letters take the place of unknown ones, several of which may have been one token
        put_back: list[int] = []
        for id_ in ids(new, line):
            token = new.backend_tokenizer.id_to_token(id_)
            put_back += [id_] if id_ < first else [part.id for part in model.tokenize(token)]
        assert put_back == old
        compared += 1
    assert compared > 20


def test_every_new_token_can_be_formed(tmp_path: Path) -> None:
    for family in ("byte_bpe", "sp_bpe", "unigram"):
        source, target = tiny_tokenizer(family, "en"), tiny_tokenizer("byte_bpe", "de", 1200)
        extension = extended(source, target)
        model = Tokenizer.from_str(json.dumps(extension.pipeline)).model
        for place in range(len(extension.added)):
            token = model.id_to_token(extension.first + place)
            assert [part.id for part in model.tokenize(token)] == [extension.first + place]
        special = [id_ for id_ in overlap(source, target).missing.tolist() if id_ not in pieces(target)]
        missing = len(overlap(source, target).missing) - len(special)
        assert len(extension.added) + extension.left_out == missing
        assert len(extension.added) > 0.7 * missing


@cache
def with_tokens_behind(family: str) -> PreTrainedTokenizerBase:
    """As Llama 3, Qwen 3 and Gemma 3 have them: added tokens whose ids follow those of the model's vocabulary."""
    backend = Tokenizer.from_str(tiny_tokenizer(family, "en").backend_tokenizer.to_str())
    backend.add_special_tokens(["<|end|>", "<|user|>"])
    backend.add_tokens([AddedToken("<tool>", normalized=False)])
    roles = tiny_tokenizer(family, "en").special_tokens_map | {"eos_token": "<|end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_behind_the_models_vocabulary_keep_their_ids(family: str, tmp_path: Path) -> None:
    source, target = with_tokens_behind(family), tiny_tokenizer("byte_bpe", "de")
    before = token_ids(source)
    assert [before[token] for token in ("<|end|>", "<|user|>", "<tool>")] == [600, 601, 602]
    extension = extended(source, target)
    new = saved(source, extension, tmp_path)
    after = token_ids(new)
    assert before.items() <= after.items()
    assert len(set(after.values())) == len(after) == 603 + len(extension.added)
    # Plain tokenizers, as every other program opens the file.
    plain = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).get_vocab(with_added_tokens=True)
    assert plain == after
    line = "In the<|end|><|user|>beginning<tool>"
    assert [id_ for id_ in ids(new, line) if id_ in (600, 601, 602)] == [600, 601, 602]
    assert new.eos_token_id == 600
    new.add_tokens(["<later>"])
    assert new.convert_tokens_to_ids("<later>") == len(after)


def test_roles_that_the_source_leaves_to_its_class_are_written(tmp_path: Path) -> None:
    source = tiny_tokenizer("wordpiece", "en")
    (tmp_path / "source").mkdir()
    (tmp_path / "out").mkdir()
    source.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    opened = load_tokenizer(tmp_path / "source")
    save_extended(extended(opened, tiny_tokenizer("wordpiece", "de")), opened, tmp_path / "source", tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").special_tokens_map == source.special_tokens_map


def test_what_would_open_with_other_ids_is_refused(tmp_path: Path) -> None:
    source = with_tokens_behind("byte_bpe")
    extension = extended(source, tiny_tokenizer("byte_bpe", "de"))
    del extension.pipeline["model"]["vocab"]["<|end|>"]
    with pytest.raises(
        UserError, match=r"with new tokens cannot be written.*1 token has other ids, first '<|end|>': 600"
    ):
        saved(source, extension, tmp_path)


def test_a_word_level_tokenizer_is_refused() -> None:
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")))
    with pytest.raises(UserError, match="type WordLevel cannot be extended"):
        extend(words, tiny_tokenizer("byte_bpe", "de"), [5, 6])
