"""Documents are the same whatever file they come in; nothing is left behind; errors name the file."""

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from clpds.data import read
from clpds.data.read import read_documents, stream_documents
from clpds.errors import UserError
from tests.tiny import text

COMPRESS = {
    "": lambda raw: raw,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
}
KINDS = ("txt", "jsonl", "json", "array", "parquet", "datasets")


def documents() -> list[str]:
    """A verse each, and what text files trip over: other scripts and characters that look like line ends."""
    return [*text("de")[0].split("\n"), "zwei\u2028Zeilen\x85?", "😀 e\u0301 中文"]


def write(folder: Path, kind: str, texts: list[str], key: str = "text") -> Path:
    """The documents as a file or folder of this kind, with other fields beside the text."""
    records = [{"url": number, key: text} for number, text in enumerate(texts)]
    table = datasets.Dataset.from_list(records)
    path = folder / f"a.{'json' if kind == 'array' else kind}"
    if kind == "txt":
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    elif kind in ("json", "jsonl"):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif kind == "array":
        path.write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        table.save_to_disk(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_all_formats_plain_and_compressed_give_the_same_documents(kind: str, tmp_path: Path) -> None:
    plain = write(tmp_path, kind, documents())
    paths = [plain]
    for ending, compress in COMPRESS.items():
        if ending and kind != "datasets":
            paths.append(plain.with_name(plain.name + ending))
            paths[-1].write_bytes(compress(plain.read_bytes()))
    for path in paths:
        assert read_documents([path])["text"][:] == documents(), path
    assert list(stream_documents(paths)) == documents() * len(paths)


@pytest.mark.parametrize("ending", COMPRESS)
def test_files_compressed_in_several_pieces_are_read_to_the_end(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(COMPRESS[ending](b"eins\n") + COMPRESS[ending](b"zwei\n"))
    assert list(stream_documents([path])) == ["eins", "zwei"]


def test_what_a_document_is_in_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffeins\r\nzwei\r\n \r\n\r\n\r\n  drei\r\n".encode())
    assert read_documents([path], sample_by="line")["text"][:] == ["eins", "zwei", "  drei"]
    assert read_documents([path], sample_by="paragraph")["text"][:] == ["eins\nzwei", "  drei"]
    assert read_documents([path], sample_by="document")["text"][:] == ["eins\nzwei\n \n\n\n  drei\n"]


def test_selected_rows_of_a_datasets_folder_and_empty_records(tmp_path: Path) -> None:
    chosen = datasets.Dataset.from_dict({"text": ["a", "b", None, "", "c"]}).select([4, 2, 3, 1])
    chosen.save_to_disk(tmp_path / "a")
    assert read_documents([tmp_path / "a"])["text"][:] == ["c", "b"]


def test_another_text_key(tmp_path: Path) -> None:
    for kind in ("jsonl", "parquet", "datasets"):
        path = write(tmp_path, kind, ["Guten Tag"], key="content")
        assert read_documents([path], text_key="content")["text"][:] == ["Guten Tag"]
        with pytest.raises(UserError, match=rf"{path.name} has no 'text'.*url, content"):
            read_documents([path])


def test_batches_do_not_change_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "jsonl", documents())
    whole = read_documents([path])
    monkeypatch.setattr(read, "BATCH_BYTES", 100)
    parts = read_documents([path])
    assert whole.data.column("text").num_chunks == 1
    assert parts.data.column("text").num_chunks > 5
    assert parts["text"][:] == whole["text"][:]


def test_the_copy_goes_with_the_result_and_is_never_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    path = tmp_path / "a.txt"
    path.write_text("alt")
    stat = path.stat()
    dataset = read_documents([path])
    assert [Path(file["filename"]).parent.parent for file in dataset.cache_files] == [cache]
    path.write_text("neu")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert dataset["text"][:] == ["alt"]
    assert read_documents([path])["text"][:] == ["neu"]
    del dataset
    path.write_text(" \n")
    with pytest.raises(UserError, match=r"no text in .*a\.txt"):
        read_documents([path])
    assert list(cache.iterdir()) == []


def test_a_cache_that_the_caller_keeps_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("alt")
    assert read_documents([path], cache=tmp_path)["text"][:] == ["alt"]
    path.write_text("neu")
    assert read_documents([path], cache=tmp_path)["text"][:] == ["alt"]
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a.txt", "documents.arrow"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", b"text", r"a\.csv: unknown ending; expected \.txt, \.jsonl"),
        ("a.gz", b"text", r"a\.gz: unknown ending"),
        ("a.txt", b"", r"no text in .*a\.txt"),
        ("a.txt", "Gr\xfc\xdfe".encode("latin-1"), r"a\.txt is not valid UTF-8"),
        ("a.jsonl", '{"text": "Gr\xfc\xdfe"}'.encode("latin-1"), r"a\.jsonl is not valid UTF-8"),
        ("a.jsonl", rb'{"text": "\ud83d"}', r"a\.jsonl is not valid UTF-8 \(surrogates"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', r"a\.jsonl is not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"content": "b", "id": 1}', r"record 2 of .*a\.jsonl has no 'text'.*content, id"),
        ("a.jsonl", b'{"text": ["a"]}', r"'text' in record 1 of .*a\.jsonl is of type list, not a string"),
        ("a.jsonl", b'"text"', r"record 1 of .*a\.jsonl is no JSON object"),
        ("a.json", b'["text"]', r"record 1 of .*a\.json is no JSON object"),
        ("a.parquet", b"text", r"a\.parquet cannot be read"),
        ("a.txt.gz", gzip.compress(b"text" * 99)[:-10], r"a\.txt\.gz cannot be read"),
        ("a.txt.xz", b"text", r"a\.txt\.xz cannot be read"),
        ("a.txt.bz2", b"text", r"a\.txt\.bz2 cannot be read"),
        ("a.txt.zst", b"text", r"a\.txt\.zst cannot be read"),
    ],
)
def test_broken_files_are_named(name: str, content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    good = tmp_path / "good.txt"
    good.write_text("text" if "no text" not in complaint else "\n")
    with pytest.raises(UserError, match=complaint) as raised:
        read_documents([good, path])
    assert "\n" not in str(raised.value)


def test_folders_that_are_no_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing does not exist"):
        read_documents([tmp_path / "missing"])
    with pytest.raises(UserError, match="was not saved by `datasets`; name the files"):
        read_documents([tmp_path])
    splits = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": ["a"]}) for name in ("test", "train")})
    splits.save_to_disk(tmp_path / "splits")
    with pytest.raises(UserError, match=r"holds the splits test, train; name one of them, such as .*splits/train"):
        read_documents([tmp_path / "splits"])
    assert read_documents([tmp_path / "splits" / "train"])["text"][:] == ["a"]
    numbers = datasets.Dataset.from_dict({"text": [1]})
    numbers.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"'text' in .*a\.parquet is of type int64, not a string"):
        read_documents([tmp_path / "a.parquet"])
