"""`clpds data`: the same bytes whatever the workers and the interruptions, and a clean held-out split."""

import json
import os
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertConfig

from clpds import provenance, recipe
from clpds.data import tokenise
from clpds.data.blocks import open_blocks
from clpds.data.prepare import prepare
from clpds.errors import UserError
from tests.data.preparing import DOCUMENTS, decoded, tree
from tests.data.test_read import KINDS, write
from tests.tiny import tiny_tokenizer


def test_all_text_comes_back_in_order_and_once(step: recipe.Data) -> None:
    prepare(step)
    train, validation = decoded(step.out, "train"), decoded(step.out, "validation")
    held_out = [raw for raw in DOCUMENTS if tokenise.is_held_out(raw.encode(), 0, 0.1)]
    rest = [raw for raw in DOCUMENTS if raw not in held_out]
    assert validation == held_out
    assert train[:-1] == rest[:-1]
    assert rest[-1].startswith(train[-1])
    assert len(rest[-1]) - len(train[-1]) < 128 * 10


def test_bytes_are_the_same_for_any_number_of_workers(step: recipe.Data, tmp_path: Path) -> None:
    for workers in (1, 3):
        prepare(replace(step, workers=workers, out=tmp_path / f"out{workers}"))
    assert tree(tmp_path / "out1") == tree(tmp_path / "out3")
    assert not list(tmp_path.glob("*.clpds-work"))
    assert not list(tmp_path.glob("*partial"))


def test_bytes_of_the_blocks_are_the_same_for_any_input_format(step: recipe.Data, tmp_path: Path) -> None:
    trees = []
    texts = [verse for chapter in DOCUMENTS[:5] for verse in chapter.split("\n")]
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        path = write(tmp_path / kind, kind, texts)
        prepare(replace(step, input=(path,), out=tmp_path / kind / "out"))
        trees.append(tree(tmp_path / kind / "out"))
        trees[-1].pop("provenance.json")
    assert all(one == trees[0] for one in trees)


def test_datasets_opens_the_result_memory_mapped(step: recipe.Data) -> None:
    prepare(step)
    for split in ("train", "validation"):
        dataset = datasets.load_from_disk(step.out / split)
        assert [Path(file["filename"]).parent for file in dataset.cache_files] == [step.out / split]
        assert dataset.split == split
        data = open_blocks(step.out, split)
        assert dataset[7]["input_ids"] == data.batch([7]).input_ids[0].tolist()
        assert sum(dataset["predicted_bytes"]) == data.predicted_bytes(range(len(data)))
        assert dataset.features["input_ids"].feature.dtype == "uint16"


def test_the_folder_says_what_it_is(step: recipe.Data, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(step)
    assert sorted(path.name for path in step.out.iterdir()) == ["provenance.json", "tokenizer", "train", "validation"]
    assert provenance.verify(step.out) == []
    record = provenance.read(step.out)
    assert record is not None
    splits = record["splits"]
    assert splits["train"]["documents"] + splits["validation"]["documents"] == len(DOCUMENTS)
    assert sum(split["bytes"] for split in splits.values()) == sum(len(raw.encode()) for raw in DOCUMENTS)
    tokens = sum(len(ids) + 2 for ids in tiny_tokenizer("byte_bpe")(DOCUMENTS)["input_ids"])
    assert sum(split["tokens"] for split in splits.values()) == tokens
    assert splits["train"]["blocks"] == splits["train"]["tokens"] // 128
    assert splits["validation"]["blocks"] == -(-splits["validation"]["tokens"] // 128)
    assert f"{splits['train']['tokens']:,}" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["unigram", "wordpiece", "byte_bpe"])
def test_what_the_tokenizer_does_not_know_is_counted_and_said(
    family: str, step: recipe.Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_tokenizer(family).save_pretrained(tmp_path / "tokenizer")
    path = write(tmp_path, "txt", ["Gott schuf 你好世界 Himmel", "Am Anfang schuf Gott"] * 20)
    changes = {"input": (path,), "tokenizer": tmp_path / "tokenizer", "sequence_length": 16, "validation_fraction": 0.0}
    prepare(replace(step, **changes))
    record = provenance.read(step.out)
    assert record is not None
    count = record["splits"]["train"]
    # 4 letters of 3 bytes; the space before them counts where the unknown token takes it in.
    wanted = {"unigram": (240, 260), "wordpiece": (240, 260), "byte_bpe": (0, 0)}[family]
    assert wanted[0] <= count["unknown_bytes"] <= wanted[1]
    said = capsys.readouterr()
    share = f"{count['unknown_bytes'] / count['bytes']:.2%}"
    assert share in said.out
    assert (f"{share} of the train text (by bytes) is the unknown token" in said.err) == (family != "byte_bpe")


def test_duplicates_fall_on_one_side(step: recipe.Data, tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", [*DOCUMENTS, *reversed(DOCUMENTS)])
    prepare(replace(step, input=(path,), validation_fraction=0.5))
    train, validation = decoded(step.out, "train"), decoded(step.out, "validation")
    assert not set(train) & set(validation)
    assert len(validation) == 2 * len(set(validation))
    assert 40 < len(set(validation)) < 80


def test_the_split_of_a_document_does_not_depend_on_the_others(step: recipe.Data, tmp_path: Path) -> None:
    prepare(step)
    few = write(tmp_path, "txt", [DOCUMENTS[0].split("\n")[0]])
    chosen = write(tmp_path, "json", DOCUMENTS[40:])
    prepare(replace(step, input=(few, chosen), out=tmp_path / "fewer"))
    assert set(decoded(tmp_path / "fewer", "validation")) == set(decoded(step.out, "validation")) & set(DOCUMENTS[40:])
    prepare(replace(step, seed=1, out=tmp_path / "reseeded"))
    assert decoded(tmp_path / "reseeded", "validation") != decoded(step.out, "validation")


def test_a_document_that_the_tokenizer_finds_nothing_in_is_left_out(step: recipe.Data, tmp_path: Path) -> None:
    tiny_tokenizer("wordpiece").save_pretrained(tmp_path / "wordpiece")
    path = write(tmp_path, "txt", ["\u200e", "Gott sprach"])
    changes = {"input": (path,), "tokenizer": tmp_path / "wordpiece", "sequence_length": 4}
    prepare(replace(step, **changes, validation_fraction=1.0))
    record = provenance.read(step.out)
    assert record is not None
    assert record["splits"]["validation"]["documents"] == 1


def test_all_or_nothing_held_out(step: recipe.Data, tmp_path: Path) -> None:
    for fraction, split, other in ((0.0, "train", "validation"), (1.0, "validation", "train")):
        out = tmp_path / split
        prepare(replace(step, validation_fraction=fraction, out=out))
        assert len(decoded(out, split)) == len(DOCUMENTS)
        assert not (out / other).exists()


def test_what_a_models_config_says_of_its_tokenizer_is_not_lost(step: recipe.Data, tmp_path: Path) -> None:
    """An older BERT: a list of words, and a config.json that tells what kind of tokenizer it is for."""
    model = tmp_path / "model"
    model.mkdir()
    words = sorted(tiny_tokenizer("wordpiece").get_vocab().items(), key=lambda item: item[1])
    (model / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words), encoding="utf-8")
    BertConfig().save_pretrained(model)
    (model / "model.safetensors").write_bytes(b"weights")
    prepare(replace(step, tokenizer=model))
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (model, step.out / "tokenizer"))
    assert before(DOCUMENTS[0])["input_ids"] == after(DOCUMENTS[0])["input_ids"]
    assert before.special_tokens_map == after.special_tokens_map
    assert (step.out / "tokenizer" / "tokenizer.json").is_file()
    assert not (step.out / "tokenizer" / "model.safetensors").exists()


def test_ids_beyond_two_bytes_and_a_tokenizer_that_cuts_and_pads(step: recipe.Data, tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, **{f"w{id}": id for id in range(1, 70_000)}}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.enable_truncation(3)
    backend.enable_padding(length=6)
    (tmp_path / "large").mkdir()
    backend.save(str(tmp_path / "large" / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w1"}
    (tmp_path / "large" / "tokenizer_config.json").write_text(json.dumps(config))
    path = write(tmp_path, "txt", ["w65535 w65536 w69999"] * 9)
    changes = {"input": (path,), "tokenizer": tmp_path / "large", "sequence_length": 4, "validation_fraction": 0.0}
    prepare(replace(step, **changes))
    data = open_blocks(step.out, "train")
    assert data.batch(range(len(data))).input_ids.tolist() == [[65535, 65536, 69999, 1]] * 9


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"input": (Path("missing.txt"),)}, r"missing\.txt does not exist"),
        ({"tokenizer": Path("missing")}, "missing does not exist"),
        ({"validation_fraction": 1.5}, r"validation_fraction 1\.5 is not between 0 and 1"),
        ({"sequence_length": 1}, "sequence_length 1 leaves nothing to predict"),
        ({"workers": 0}, "workers 0: give 1 at least"),
        ({"text_key": "content"}, r"record 1 of .*a\.jsonl has no 'content'; pass --text-key with one of: url, text"),
        ({"validation_fraction": 1e-9}, r"leaves none of the 120 documents for the validation split"),
        ({"validation_fraction": 1 - 1e-9}, r"leaves none of the 120 documents for the train split"),
        ({"sequence_length": 10**6}, r"train split has [\d,]+ tokens, less than one block of 1,000,000"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    changes: dict[str, object], complaint: str, step: recipe.Data, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=complaint) as raised:
        prepare(replace(step, **changes))
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_exists_is_kept_unless_told(step: recipe.Data, tmp_path: Path) -> None:
    step.out.mkdir()
    (step.out / "mine").touch()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="out exists and will not be replaced"):
            prepare(replace(step, overwrite=overwrite))
    (step.out / "mine").unlink()
    prepare(replace(step, overwrite=True))
    with pytest.raises(UserError, match=r"out exists; .* pass --overwrite"):
        prepare(step)
    prepare(replace(step, overwrite=True, sequence_length=32))
    assert open_blocks(step.out, "train").sequence_length == 32


def test_a_disk_too_small_is_noticed_before(step: recipe.Data, tmp_path: Path) -> None:
    # A Parquet file, as one that is not checked is then refused at once.
    sparse = tmp_path / "sparse.parquet"
    with sparse.open("wb") as file:
        os.truncate(file.fileno(), 2**43)
    with pytest.raises(UserError, match=r"out needs 79\.16 TB"):
        prepare(replace(step, input=(sparse,)))
    assert not list(tmp_path.glob("out*"))
