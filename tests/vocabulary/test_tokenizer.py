"""Opening tokenizers, and saying in what two differ."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer
from transformers import AutoTokenizer, CTRLTokenizer, PreTrainedTokenizerFast, Qwen2Config

from clpds.errors import UserError
from clpds.vocabulary.roles import special_ids
from clpds.vocabulary.tokenizer import check_written, load_tokenizer, misread, require_same, rows_needed, save_copy
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


def test_truncation_padding_and_dropout_of_the_file_are_off(tmp_path: Path) -> None:
    plain = tiny_tokenizer("byte_bpe")
    document = json.loads(plain.backend_tokenizer.to_str())
    document["truncation"] = {"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0}
    document["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 2, "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    document["model"]["dropout"] = 0.5
    plain.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    opened = load_tokenizer(tmp_path)
    for line in text()[0].splitlines()[:5]:
        wanted = plain.backend_tokenizer.encode(line).tokens
        assert opened.backend_tokenizer.encode(line).tokens == wanted
        assert opened.tokenize(line) == wanted
    require_same(opened, plain, "opened", "plain")
    assert misread(tmp_path) is None
    save_copy(tmp_path, opened, tmp_path / "copy")
    require_same(load_tokenizer(tmp_path / "copy"), plain, "copy", "plain")


def test_a_file_that_its_own_class_fails_on_is_opened_as_it_stands(tmp_path: Path) -> None:
    """As transformers 5 does with ALBERT's of 4.36."""
    plain = tiny_tokenizer("unigram")
    plain.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "AlbertTokenizer", "cls_token": "[CLS]", "eos_token": "</s>"})
    )
    with pytest.raises(Exception, match="Expected Union"):
        AutoTokenizer.from_pretrained(tmp_path)
    opened = load_tokenizer(tmp_path)
    assert opened.tokenize(text()[0]) == plain.tokenize(text()[0])
    assert opened.eos_token_id == plain.eos_token_id
    assert str(misread(tmp_path)).startswith("it fails")


def _sentencepiece(folder: Path, tokenizer_class: str, **changes: Any) -> Any:
    """A folder with tokenizer.model alone, as the first releases of Llama and Mistral."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(text()).splitlines()), model_writer=out, vocab_size=1000, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, **changes,
    )  # fmt: skip
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(out.getvalue())
    (folder / "tokenizer.model").write_bytes(out.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class, "legacy": False}))
    return model


def test_a_converted_sentencepiece_model_cuts_as_sentencepiece_does(tmp_path: Path) -> None:
    model = _sentencepiece(tmp_path, "LlamaTokenizer", model_type="bpe", byte_fallback=True)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    assert load_tokenizer(tmp_path).tokenize(text()[0]) == processor.encode(text()[0], out_type=str)
    # Runs of spaces as Mistral has them: with low ids, so that the conversion merges them first, and the lowest scores.
    model.pieces.insert(3, sentencepiece_model_pb2.ModelProto.SentencePiece(piece="▁▁", score=-1e9))
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"tokenizer\.model is cut by transformers otherwise than by SentencePiece"):
        load_tokenizer(tmp_path)


def test_what_does_not_open_as_it_was_is_not_kept(tmp_path: Path) -> None:
    made, other = tiny_tokenizer("byte_bpe"), tiny_tokenizer("byte_bpe", "en")
    other.save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"^mine cannot be written so that it opens as it was: \d+ tokens have other ids"
    ):
        check_written(made, tmp_path, "mine")
    swapped = _changed(made, {"pre_tokenizer": {"type": "Whitespace"}})
    swapped.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has the ids \[.* in place of \["):
        check_written(_changed(made, {}), tmp_path, "mine")
    with pytest.raises(UserError, match="roles are"):
        check_written(made, tmp_path, "mine")


def test_padding_and_truncation_make_no_difference() -> None:
    one = tiny_tokenizer("wordpiece")
    padded = _changed(one, {})
    padded.add_special_tokens({"pad_token": "[PAD]"})
    padded(["a", "b c"], padding=True, truncation=True, max_length=3)
    require_same(one, padded, "one", "padded")
