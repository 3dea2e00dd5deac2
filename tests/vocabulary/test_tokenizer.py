"""Opening tokenizers, and saying in what two differ."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import CTRLTokenizer, PreTrainedTokenizerFast, Qwen2Config

from clpds.errors import UserError
from clpds.vocabulary.roles import special_ids
from clpds.vocabulary.tokenizer import load_tokenizer, require_same, rows_needed
from tests.tiny import text, tiny_tokenizer
from tests.vocabulary.made import byte_level

FAMILIES = ("byte_bpe", "sp_bpe", "unigram", "wordpiece")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_tokenizer_opens_the_same(family: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(family)
    tokenizer.save_pretrained(tmp_path)
    opened = load_tokenizer(tmp_path)
    require_same(opened, tokenizer, "opened", "saved")
    assert opened(text()[0]).input_ids == tokenizer(text()[0]).input_ids
    assert special_ids(opened) == special_ids(tokenizer)


def test_the_file_counts_where_the_class_would_build_another_pipeline(tmp_path: Path) -> None:
    """AutoTokenizer of transformers 5 gives every Qwen2 folder Qwen2's pipeline; the ids are then garbage."""
    tokenizer = tiny_tokenizer("unigram")
    tokenizer.save_pretrained(tmp_path)
    Qwen2Config().save_pretrained(tmp_path)
    opened = load_tokenizer(tmp_path)
    require_same(opened, tokenizer, "opened", "saved")
    assert opened(text()[0]).input_ids == tokenizer(text()[0]).input_ids


def test_roles_that_an_old_folder_leaves_to_the_class_are_kept(tmp_path: Path) -> None:
    tiny_tokenizer("wordpiece").save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert special_ids(load_tokenizer(tmp_path)) == special_ids(tiny_tokenizer("wordpiece"))


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent does not exist"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(UserError, match=r"has no tokenizer; expected tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=f"{tmp_path} holds a tokenizer that transformers cannot open"):
        load_tokenizer(tmp_path)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a</w>": 0, "<unk>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na </w>\n")
    CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="CTRLTokenizer, which transformers cannot convert"):
        load_tokenizer(tmp_path)


def test_rows_follow_the_largest_id_not_the_count() -> None:
    tokenizer = byte_level(["<s>"], {"Gott": 400})
    assert len(tokenizer) < 401 == rows_needed(tokenizer)


def _changed(tokenizer: PreTrainedTokenizerFast, change: dict[str, object]) -> PreTrainedTokenizerFast:
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    model = document["model"] | change.pop("model", {})  # type: ignore[operator]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document | change | {"model": model}))
    )


def test_the_message_says_in_what_two_tokenizers_differ() -> None:
    one = tiny_tokenizer("wordpiece")
    require_same(one, _changed(one, {}), "the helper", "the data")

    vocabulary = dict(one.get_vocab())
    first, second = sorted(vocabulary, key=vocabulary.__getitem__)[20:22]
    swapped = vocabulary | {first: vocabulary[second], second: vocabulary[first]}
    with pytest.raises(UserError) as error:
        require_same(one, _changed(one, {"model": {"vocab": swapped}}), "the helper", "the data")
    assert str(error.value) == (
        f"the helper and the data have different tokenizers: 2 tokens have other ids, first '{first}': 20 and 21"
    )

    renamed = {token: id_ for token, id_ in vocabulary.items() if token != first} | {"neu": 20}
    with pytest.raises(UserError, match=f"only the helper knows '{first}'.*only the data knows 'neu'"):
        require_same(one, _changed(one, {"model": {"vocab": renamed}}), "the helper", "the data")

    with pytest.raises(UserError, match=r"same ids, but another normalizer in tokenizer.json"):
        require_same(one, _changed(one, {"normalizer": None}), "the helper", "the data")
    with pytest.raises(UserError, match=r"another model.max_input_chars_per_word in tokenizer.json"):
        require_same(one, _changed(one, {"model": {"max_input_chars_per_word": 7}}), "the helper", "the data")


def test_padding_and_truncation_make_no_difference() -> None:
    one = tiny_tokenizer("wordpiece")
    padded = _changed(one, {})
    padded.add_special_tokens({"pad_token": "[PAD]"})
    padded(["a", "b c"], padding=True, truncation=True, max_length=3)
    require_same(one, padded, "one", "padded")
