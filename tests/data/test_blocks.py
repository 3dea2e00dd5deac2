"""Blocks against a naive definition: a loop over documents and tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clpds import recipe
from clpds.data.blocks import IGNORED, Blocks, open_blocks
from clpds.data.pack import unpacked
from clpds.data.prepare import prepare
from clpds.errors import UserError
from tests.tiny import text, tiny_tokenizer

ENDS = {"byte_bpe": (0, 1), "sp_bpe": (1, 2), "unigram": (0, 2), "wordpiece": (2, 3)}  # bos or cls, eos or sep
FAMILIES = tuple(ENDS)
ODD = ("  zwei  Leerzeichen", "😀 €uro e\u0301 中文", "a", "Zeile\n\nZeile")


def documents() -> list[str]:
    """Verses and odd cases: some much shorter than a block, some longer."""
    return [*text("de")[0].split("\n"), *ODD, text("de")[1]]


def blocks(folder: Path, family: str, texts: list[str], length: int, split: str) -> Blocks:
    """These documents through `clpds data`, all into one split."""
    tiny_tokenizer(family).save_pretrained(folder / "tokenizer")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out = folder / split
    prepare(
        recipe.Data(
            input=(folder / "a.jsonl",),
            tokenizer=folder / "tokenizer",
            sequence_length=length,
            validation_fraction=float(split == "validation"),
            workers=1,
            out=out,
        )
    )
    return open_blocks(out, split)


def naive(family: str, texts: list[str], length: int, *, isolate: bool) -> list[tuple[list[int], list[int], list[int]]]:
    """(input_ids, position_ids, labels) of every block, the last one without padding."""
    start, end = ENDS[family]
    stream = []
    for number, document in enumerate(texts):
        ids = tiny_tokenizer(family)(document, add_special_tokens=False)["input_ids"]
        stream += [(id, number) for id in [start, *ids, end]]
    result = []
    for first in range(0, len(stream), length):
        block = stream[first : first + length]
        positions: list[int] = []
        labels = []
        for place, (id, document) in enumerate(block):
            new = place == 0 or (isolate and block[place - 1][1] != document)
            positions.append(0 if new else positions[-1] + 1)
            labels.append(IGNORED if new else id)
        result.append(([id for id, _ in block], positions, labels))
    return result


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("isolate", [True, False])
def test_blocks_are_those_of_the_naive_definition(family: str, isolate: bool, tmp_path: Path) -> None:
    length = 48
    expected = naive(family, documents(), length, isolate=isolate)
    rest = len(expected[-1][0])
    assert 0 < rest < length
    for split in ("train", "validation"):
        made = blocks(tmp_path, family, documents(), length, split)
        assert len(made) == len(expected) - (split == "train")
        assert made.sequence_length == length
        batch = made.batch(range(len(made)), isolate=isolate)
        for row, (ids, positions, labels) in enumerate(expected[: len(made)]):
            assert batch.input_ids[row, : len(ids)].tolist() == ids
            assert batch.position_ids[row, : len(ids)].tolist() == positions
            assert batch.labels[row, : len(ids)].tolist() == labels
    pad = tiny_tokenizer(family).pad_token_id
    assert batch.input_ids[-1, rest:].tolist() == [ENDS[family][1] if pad is None else pad] * (length - rest)
    assert batch.position_ids[-1, rest:].tolist() == list(range(length - rest))
    assert batch.labels[-1, rest:].tolist() == [IGNORED] * (length - rest)


def test_a_batch_is_in_the_order_asked_for_and_int64(tmp_path: Path) -> None:
    made = blocks(tmp_path, "byte_bpe", documents(), 32, "train")
    whole = made.batch(range(len(made)))
    some = made.batch([5, 0, 5])
    for all_rows, rows in zip(whole, some, strict=True):
        assert rows.dtype == torch.int64
        assert torch.equal(rows, all_rows[[5, 0, 5]])
    for index in (-1, len(made)):
        with pytest.raises(IndexError):
            made.batch([index])


@pytest.mark.parametrize("family", FAMILIES)
def test_predicted_bytes_of_whole_documents_are_the_bytes_of_their_text(family: str, tmp_path: Path) -> None:
    texts = [*documents(), "am Ende Leerzeichen  "]
    made = blocks(tmp_path, family, texts, 4096, "validation")
    assert made.predicted_bytes(range(len(made))) == sum(len(text.encode()) for text in texts)


def test_predicted_bytes_leave_out_what_has_no_label(tmp_path: Path) -> None:
    verses = [verse for chapter in text("en", 3) for verse in chapter.split("\n") if verse.isascii()]
    assert len(verses) > 50
    made = blocks(tmp_path, "byte_bpe", verses, 48, "train")
    labels = made.batch(range(len(made))).labels
    counts = []
    for index in range(len(made)):
        ids = labels[index][labels[index] > 2].tolist()  # 0, 1, 2 are bos, eos, pad
        # In ASCII a byte-level token is spelled with as many characters as it has bytes.
        counts.append(len("".join(tiny_tokenizer("byte_bpe").convert_ids_to_tokens(ids))))
    assert [made.predicted_bytes([index]) for index in range(len(made))] == counts
    assert made.predicted_bytes(range(len(made))) == sum(counts) < sum(map(len, verses))


def test_the_fingerprint_follows_the_data(tmp_path: Path) -> None:
    def fingerprint(name: str, texts: list[str], length: int, family: str = "byte_bpe") -> str:
        (tmp_path / name).mkdir()
        return blocks(tmp_path / name, family, texts, length, "train").fingerprint

    same = fingerprint("a", documents(), 32), fingerprint("b", documents(), 32)
    assert same[0] == same[1]
    others = [
        fingerprint("c", documents()[1:], 32),
        fingerprint("d", documents(), 16),
        fingerprint("e", documents(), 32, "unigram"),
    ]
    assert len({same[0], *others}) == 4


def test_folders_that_hold_no_blocks(tmp_path: Path) -> None:
    blocks(tmp_path, "byte_bpe", documents(), 32, "train")
    with pytest.raises(UserError, match=r"missing does not exist; write it with `clpds data`"):
        open_blocks(tmp_path / "missing", "train")
    with pytest.raises(UserError, match="tokenizer is no data folder"):
        open_blocks(tmp_path / "tokenizer", "train")
    with pytest.raises(UserError, match="train has no split 'validation', only train"):
        open_blocks(tmp_path / "train", "validation")
    shard = next((tmp_path / "train" / "train").glob("*.arrow"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="train is damaged"):
        open_blocks(tmp_path / "train", "train")
    record = tmp_path / "train" / "provenance.json"
    record.write_text(record.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(UserError, match="has format 0, this clpds reads 1; write it again"):
        open_blocks(tmp_path / "train", "train")


def test_a_block_of_one_document_has_a_piece_of_it_and_padding() -> None:
    lengths = [3, 9, 1, 4]
    ids, sizes = np.arange(100, 117), np.arange(17) + 1
    ((blocks, offsets, ends, predicted),) = unpacked([(ids, sizes, np.array(lengths))], 4, 7)
    assert blocks.tolist() == [
        [100, 101, 102, 7],
        *([103, 104, 105, 106], [107, 108, 109, 110], [111, 7, 7, 7]),
        [112, 7, 7, 7],
        [113, 114, 115, 116],
    ]
    assert ends.tolist() == [3, 4, 4, 1, 1, 4]
    assert offsets.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert predicted.tolist() == [2 + 3, 5 + 6 + 7, 9 + 10 + 11, 0, 0, 15 + 16 + 17]
