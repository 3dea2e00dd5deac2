"""`clpds pairs` on verses of two Bibles, and what a model is given of them."""

from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoTokenizer

from clpds import provenance
from clpds.data.blocks import IGNORED, open_blocks
from clpds.data.pairs import open_pairs
from clpds.data.prepare_pairs import prepare_pairs
from clpds.data.samples import chapters, held_out, write_verses
from clpds.errors import UserError
from clpds.inspection.show import describe
from clpds.recipe import Pairs
from tests.tiny import tiny_tokenizer

N = 80


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Verses, the third without a German one, and a tokenizer."""
    folder = tmp_path_factory.mktemp("parallel")
    english, german = (chapters(language) for language in ("en", "de"))
    both = [(e, g) for key in list(english)[:8] for e, g in zip(english[key], german[key], strict=False)]
    both[2] = (both[2][0], "")
    (folder / "en.txt").write_text("".join(f"{e}\n" for e, _ in both))
    (folder / "de.txt").write_text("".join(f"{g}\n" for _, g in both))
    tiny_tokenizer("wordpiece", "de", 700).save_pretrained(folder / "joint")
    return folder


@pytest.fixture
def step(inputs: Path, tmp_path: Path) -> Pairs:
    files = (inputs / "en.txt", inputs / "de.txt")
    return Pairs(
        parallel=files, tokenizer=inputs / "joint", sequence_length=N, out=tmp_path / "out", validation_fraction=0.1
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_verses_beside_each_other_are_those_of_the_same_chapter_and_not_held_out(tmp_path: Path) -> None:
    write_verses("en", "de", tmp_path)
    lines = [line.split("\t") for line in (tmp_path / "en-de.train.txt").read_text().splitlines()]
    english, german = chapters("en"), chapters("de")
    kept = [key for key in english if not held_out(key) and len(english[key]) == len(german[key])]
    assert len(kept) > 0.9 * len(english)
    assert lines == [[e, g] for key in kept for e, g in zip(english[key], german[key], strict=True)]


def test_every_pair_that_fits_is_there_once_framed_and_linked(step: Pairs, inputs: Path) -> None:
    prepare_pairs(step)
    tokenizer = AutoTokenizer.from_pretrained(step.out / "tokenizer")
    cls, sep, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    lines = [(inputs / name).read_text().splitlines() for name in ("en.txt", "de.txt")]
    expected = {
        ((cls, *source, sep, pad), (cls, *target, sep))
        for source, target in (
            (tuple(tokenizer.encode(text, add_special_tokens=False)) for text in pair)
            for pair in zip(*lines, strict=True)
        )
        if target and len(source) + 3 <= N and len(target) + 2 <= N
    }
    found, aligned, places = set(), 0, 0
    for split in ("train", "validation"):
        for row in datasets.load_from_disk(str(step.out / split)):
            found.add((tuple(row["source"]), tuple(row["target"])))
            end = len(row["source"]) - 1
            assert row["alignment"][0] == 0
            assert row["alignment"][-1] == end - 1
            assert all(0 < place <= end for place in row["alignment"][1:])
            assert end - 1 not in row["alignment"][1:-1]
            aligned += sum(place != end for place in row["alignment"])
            places += len(row["alignment"])
    assert found == expected
    record = provenance.read(step.out)
    counts = record["splits"]
    assert sum(counts[split]["pairs"] for split in counts) == len(expected) < len(lines[0]) - 1
    assert counts["train"]["empty"] == 1
    assert sum(counts[split]["target_tokens"] for split in counts) == places
    assert 0.5 < aligned / places == 1 - sum(counts[split]["unaligned"] for split in counts) / places
    assert dict(describe(step.out))["kind"] == "aligned sentence pairs, first language to second"


def test_equal_inputs_give_equal_bytes_and_both_directions_hold_out_the_same(step: Pairs, tmp_path: Path) -> None:
    prepare_pairs(step)
    again = replace(step, out=tmp_path / "again")
    prepare_pairs(again)
    assert bytes_of(again.out) == bytes_of(step.out)
    back = replace(step, out=tmp_path / "back", reverse=True)
    prepare_pairs(back)
    for split in ("train", "validation"):
        there = {
            (tuple(row["source"][:-1]), tuple(row["target"])) for row in datasets.load_from_disk(str(step.out / split))
        }
        here = {
            (tuple(row["target"]), tuple(row["source"][:-1])) for row in datasets.load_from_disk(str(back.out / split))
        }
        assert len(there & here) > 0.9 * len(there)  # the dummy makes one of them too long, now and then
    assert dict(describe(back.out))["kind"] == "aligned sentence pairs, second language to first"


@pytest.mark.parametrize("reverse", [False, True])
def test_links_of_another_program_are_taken_in_the_direction_asked_for(
    reverse: bool, step: Pairs, tmp_path: Path
) -> None:
    """``i-j`` of a line en-de: j starts from i, and reversed i from j; words are cut at white space."""
    (tmp_path / "both.tsv").write_text("Gott schuf\tHimmel und Erde.\n")
    (tmp_path / "links").write_text("0-2 1-0 0-0\n")
    files = {"parallel": (tmp_path / "both.tsv",), "alignments": tmp_path / "links"}
    prepare_pairs(replace(step, **files, reverse=reverse, validation_fraction=0.0))
    row = datasets.load_from_disk(str(step.out / "train"))[0]
    tokenizer = AutoTokenizer.from_pretrained(step.out / "tokenizer")
    source, target = (tokenizer.convert_ids_to_tokens(row[name]) for name in ("source", "target"))
    linked = [(target[j], source[i]) for j, i in enumerate(row["alignment"])]
    expected = {
        False: {"Himmel": "Gott", "und": "[PAD]", "Erde": "Gott", ".": "Gott", "[CLS]": "[CLS]", "[SEP]": "[SEP]"},
        True: {"Gott": "Himmel", "schuf": "Himmel", "[CLS]": "[CLS]", "[SEP]": "[SEP]"},
    }[reverse]
    pieces = {word: tokenizer.tokenize(word) for word in ("Gott", "schuf", "Himmel", "Erde")}
    for word, partner in expected.items():
        first = pieces.get(word, [word])[0]
        assert dict(reversed(linked))[first] == pieces.get(partner, [partner])[0], (linked, word)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_batch_holds_translations_and_the_new_languages_sentences(reverse: bool, step: Pairs) -> None:
    prepare_pairs(replace(step, reverse=reverse))
    pairs = open_pairs(step.out, "train")
    rows = datasets.load_from_disk(str(step.out / "train"))
    assert len(pairs) == 2 * len(rows)
    batch = pairs.batch([3, 3 + len(rows)])
    source, target, alignment = (rows[3][name] for name in ("source", "target", "alignment"))
    dummy, new = len(source) - 1, source[:-1] if reverse else target
    assert batch.input_ids.tolist() == [
        source + [source[-1]] * (N - len(source)),
        new + [source[-1]] * (N - len(new)),
    ]
    assert batch.attention_mask.sum(dim=1).tolist() == [dummy, len(new)]
    assert batch.target_mask.sum(dim=1).tolist() == [len(target), len(new)]
    assert batch.alignment.tolist() == [alignment + [dummy] * (N - len(target)), list(range(N))]
    assert batch.labels.tolist() == [
        target + [IGNORED] * (N - len(target)),
        new + [IGNORED] * (N - len(new)),
    ]
    assert batch.language_ids.tolist() == [int(reverse), 1]
    assert batch.target_language_ids.tolist() == [int(not reverse), 1]
    assert batch.translated.tolist() == [True, False]
    assert batch.translated.dtype == batch.attention_mask.dtype == torch.bool
    assert batch.input_ids.dtype == torch.int64


def test_bad_input_is_one_line_and_leaves_nothing(step: Pairs, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("eins\n")
    (tmp_path / "few").write_text("0-0\n")
    (tmp_path / "pair.tsv").write_text("one two\tein\n")
    (tmp_path / "beyond").write_text("0-1\n")
    tiny_tokenizer("sp_bpe").save_pretrained(tmp_path / "unpadded")
    pair = {"parallel": (tmp_path / "pair.tsv",)}
    for change, message in (
        ({"parallel": (inputs / "en.txt", tmp_path / "short.txt")}, r"en.txt has 2\d\d lines and .*short.txt 1;"),
        ({"alignments": tmp_path / "few"}, r"few has 1 lines for 2\d\d pairs"),
        (pair | {"alignments": tmp_path / "beyond"}, "beyond, line 1: a link goes beyond .* 2 and 1 words"),
        (pair | {"alignments": tmp_path / "beyond", "reverse": True}, "line 1: a link goes beyond .* 2 and 1 words"),
        ({"alignments": tmp_path / "none"}, "none does not exist"),
        ({"sequence_length": 4}, r"none of the 2\d\d pairs is left to train on: 1 with an empty side, 2\d\d too long"),
        ({"tokenizer": tmp_path / "unpadded"}, "unpadded lacks a token that opens or closes a sentence, or one for"),
        ({"validation_fraction": 1.0}, "validation_fraction 1.0 is not in"),
    ):
        with pytest.raises(UserError, match=message):
            prepare_pairs(replace(step, **change))
        assert not step.out.exists()
        assert not list(tmp_path.glob("out*"))


def test_a_folder_of_another_kind_is_refused(step: Pairs) -> None:
    prepare_pairs(step)
    with pytest.raises(UserError, match="is no data folder; write one with `clpds data`"):
        open_blocks(step.out, "train")
    with pytest.raises(UserError, match="is no pairs folder; write one with `clpds pairs`"):
        open_pairs(step.tokenizer, "train")
