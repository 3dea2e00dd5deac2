"""`clpds data --label-key`: a text a block, its class beside it, and bad input."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clpds.data.blocks import IGNORED, open_blocks
from clpds.data.order import Mixture
from clpds.data.prepare import prepare
from clpds.data.samples import held_out, write_task
from clpds.errors import UserError
from clpds.recipe import Data
from tests.tiny import tiny_tokenizer

ROWS = [("der Anfang der Welt", "law"), ("ein Psalm " * 40, "wisdom"), ("und er sprach", "law")]


@pytest.fixture
def step(tmp_path: Path) -> Data:
    tiny_tokenizer("wordpiece").save_pretrained(tmp_path / "tokenizer")
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)
    (tmp_path / "de.jsonl").write_text(lines)
    return Data(
        input=(tmp_path / "de.jsonl",),
        tokenizer=tmp_path / "tokenizer",
        sequence_length=16,
        label_key="label",
        validation_fraction=0,
        out=tmp_path / "data",
    )


def test_a_block_is_a_text_between_its_ends_and_the_class_is_its_label(step: Data) -> None:
    prepare(step)
    blocks = open_blocks(step.out, "train")
    tokenizer = tiny_tokenizer("wordpiece")
    assert blocks.classes == ("law", "wisdom")
    batch = blocks.batch(range(3))
    for row, (text, label) in enumerate(ROWS):
        inside = tokenizer(text, add_special_tokens=False).input_ids[:14]
        ids = [tokenizer.cls_token_id, *inside, tokenizer.sep_token_id]
        assert batch.input_ids[row].tolist() == ids + [tokenizer.pad_token_id] * (16 - len(ids))
        assert batch.labels[row].tolist() == [blocks.classes.index(label)] + [IGNORED] * 15


def test_the_same_texts_of_any_kind_of_file_give_the_same_blocks(step: Data, tmp_path: Path) -> None:
    prepare(step)
    (tmp_path / "de.jsonl.gz").write_bytes(gzip.compress(step.input[0].read_bytes()))
    table = pa.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
    pq.write_table(table, tmp_path / "de.parquet")
    wanted = open_blocks(step.out, "train").fingerprint
    for name in ("de.jsonl.gz", "de.parquet"):
        prepare(replace(step, input=(tmp_path / name,), out=tmp_path / f"{name}.out"))
        assert open_blocks(tmp_path / f"{name}.out", "train").fingerprint == wanted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n', "has no field 'label' .its fields: text"),
        ('{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n', "row 2 has no text in 'text' or nothing in"),
        ('{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n', "all texts have the same 'label': x"),
        ('{"text": "a", "label": "x"\n', "cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(step: Data, content: str, message: str) -> None:
    step.input[0].write_text(content)
    with pytest.raises(UserError, match=message) as error:
        prepare(step)
    assert "\n" not in str(error.value)
    assert not step.out.exists()


def test_labelled_data_of_other_classes_do_not_mix(step: Data, tmp_path: Path) -> None:
    prepare(step)
    (tmp_path / "other.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    other = replace(step, input=(tmp_path / "other.jsonl",), out=tmp_path / "other")
    prepare(other)
    with pytest.raises(UserError, match="different classes"):
        Mixture([open_blocks(step.out, "train"), open_blocks(other.out, "train")], [1, 1], 0)


def test_no_verse_of_the_task_is_asked_that_another_language_was_trained_on(tmp_path: Path) -> None:
    sides = {}
    for language in ("en", "fr"):
        write_task(language, tmp_path)
        for side in ("train", "heldout"):
            lines = (tmp_path / f"{language}.task.{side}.jsonl").read_text().splitlines()
            sides[language, side] = [json.loads(line) for line in lines]
    assert {row["label"] for row in sides["fr", "heldout"]} == {row["label"] for row in sides["en", "train"]}
    assert sides["en", "train"][0] == {
        "text": "And God said, Let there be light: and there was light.", "label": "law"
    } or not held_out((1, 1))  # fmt: skip
    whole = {language: len(sides[language, "train"]) + len(sides[language, "heldout"]) for language in ("en", "fr")}
    assert abs(whole["en"] - whole["fr"]) < 100
