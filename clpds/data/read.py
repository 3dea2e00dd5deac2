"""Documents out of text, JSONL and Parquet files (plain or compressed) and `datasets` folders."""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from typing import IO, Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from clpds.bounds import DOCUMENT, RECORD
from clpds.data.parquet import read_batches
from clpds.errors import UserError
from clpds.inside import read_json, require_inside
from clpds.progress import progress
from clpds.refusals import require_given

FILE = "documents.arrow"
FEATURES = datasets.Features(text=datasets.Value("string"))
BATCH_BYTES = 4 * 2**20  # of text in a record batch, which is also the unit of work of `clpds data`
OPENERS: dict[str, Any] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: pa.input_stream(str(path), compression="zstd"),
}
ENDINGS = ".txt, .jsonl, .json or .parquet, plain or with .gz, .zst, .xz or .bz2"


def read_documents(
    inputs: Sequence[Path], *, text_key: str = "text", sample_by: str = "line", cache: Path | None = None
) -> datasets.Dataset:
    """All documents of ``inputs`` in order: one string column ``text``, memory-mapped.

    ``sample_by`` says what a document is in a text file (line, paragraph, document: the whole
    file). Documents without text (blank lines) are left out. The text is copied once, uncompressed,
    to ``cache / "documents.arrow"``; a file that stands there is taken as it is. Without ``cache`` it
    lies in the cache folder of `datasets` (HF_HOME moves it) for as long as the result is in use.
    Raises UserError that names the file for one that is missing, has an unknown ending, lacks the
    key or is not valid UTF-8, and for inputs that hold no text at all.
    """
    for path in inputs:
        check_input(path)
    folder = cache
    if folder is None:
        parent = Path(datasets.config.HF_DATASETS_CACHE)
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="clpds-", dir=parent))
    file = folder / FILE
    try:
        if not file.exists():
            _write(inputs, text_key, sample_by, file)
        dataset = datasets.Dataset.from_file(str(file))
    except BaseException:
        if cache is None:
            _remove(folder, os.getpid())
        raise
    if cache is None:
        weakref.finalize(dataset, _remove, folder, os.getpid())
    return dataset


def stream_documents(inputs: Sequence[Path], *, text_key: str = "text", sample_by: str = "line") -> Iterator[str]:
    """The same documents one after the other, straight from the files: nothing is copied."""
    found = False
    for path in inputs:
        check_input(path)
        with _blame(path):
            for text in _documents(path, text_key, sample_by):
                if text and not text.isspace():
                    found = True
                    yield text
    if not found:
        raise UserError(f"no text in {', '.join(map(str, inputs))}")


def check_input(path: Path) -> None:
    """Raise UserError unless ``path`` is there and of a kind that can be read."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_file() and _kind(path) not in (".txt", ".jsonl", ".json", ".parquet"):
        raise UserError(f"{path}: unknown ending; expected {ENDINGS}")
    if path.is_dir() and (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(child.name for child in path.iterdir() if child.is_dir()))
        raise UserError(f"{path} holds the splits {splits}; name one of them, such as {path}/train")
    if path.is_dir() and not (path / "state.json").is_file():
        raise UserError(f"{path} was not saved by `datasets`; name the files in it instead")


def load_saved(folder: Path) -> datasets.Dataset:
    """What `datasets` saved in ``folder``, memory-mapped; UserError where it is damaged or its files lie elsewhere."""
    state = folder / "state.json"
    try:
        files = [str(file["filename"]) for file in read_json(state, RECORD)["_data_files"]]
        require_inside(state, *files)
        return datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, pa.ArrowException) as error:
        require_given(folder, error)
        raise UserError(f"{folder} is damaged ({' '.join(str(error).split())}); write it again") from error


def input_bytes(inputs: Iterable[Path]) -> int:
    """Bytes of UTF-8 text to be expected: the size of the files, of compressed ones three times that."""
    return sum(
        file.stat().st_size * (3 if file.suffix in (*OPENERS, ".parquet") else 1)
        for path in inputs
        for file in input_files(path)
    )


def input_files(path: Path) -> list[Path]:
    """The files that an input consists of: itself, or all those of a folder, in order."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _kind(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in OPENERS else path.suffix


def _write(inputs: Sequence[Path], text_key: str, sample_by: str, file: Path) -> None:
    """Record batches of BATCH_BYTES of text (one document more at most), atomically."""
    partial = file.with_suffix(".partial")
    schema = FEATURES.arrow_schema
    with (
        progress("reading (MB)", input_bytes(inputs) // 10**6) as advance,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as writer,
    ):
        texts: list[bytes] = []
        size = 0
        for text in stream_documents(inputs, text_key=text_key, sample_by=sample_by):
            texts.append(text.encode())
            size += len(texts[-1])
            if size >= BATCH_BYTES:
                writer.write_batch(_batch(texts, schema))
                advance(size / 10**6)
                texts, size = [], 0
        if texts:
            writer.write_batch(_batch(texts, schema))
    partial.replace(file)


def _batch(texts: list[bytes], schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([pa.array(texts, pa.binary()).cast(pa.string())], schema=schema)


def _documents(path: Path, text_key: str, sample_by: str) -> Iterator[str | None]:
    if path.is_dir():
        dataset = load_saved(path)
        _require_key(path, text_key, dataset.column_names)
        arrow = dataset.select_columns([text_key]).with_format("arrow")
        for batch in arrow.iter(1000):
            yield from _strings(path, text_key, batch.column(0))
    elif _kind(path) == ".parquet":
        with _open(path) as stream:
            source = _unpacked(path, stream) if path.suffix in OPENERS else path
            schema = pq.read_schema(source)
            _require_key(path, text_key, schema.names)
            _require_text(path, text_key, schema.field(text_key).type)
            for batch in read_batches(path, source, [text_key]):
                yield from _strings(path, text_key, batch.column(0))
    elif _kind(path) == ".txt":
        with _open_text(path) as lines:
            yield from _split_text(path, lines, sample_by)
    else:
        with _open_text(path) as lines:
            yield from _json_texts(path, text_key, lines)


def _split_text(path: Path, lines: IO[str], sample_by: str) -> Iterator[str]:
    if sample_by == "line":
        for line in _lines(path, lines):
            yield line.rstrip("\n")
    elif sample_by == "paragraph":
        for blank, paragraph in groupby(_lines(path, lines), str.isspace):
            if not blank:
                yield _joined(path, paragraph).rstrip("\n")
    else:
        yield _joined(path, _lines(path, lines))


def _lines(path: Path, stream: IO[str]) -> Iterator[str]:
    """The lines of ``stream``; UserError at one that is too long to be a text's."""
    while line := stream.readline(DOCUMENT + 1):
        _require_short(path, len(line))
        yield line


def _joined(path: Path, lines: Iterable[str]) -> str:
    parts, size = [], 0
    for line in lines:
        parts.append(line)
        size += len(line)
        _require_short(path, size)
    return "".join(parts)


def _require_short(path: Path, size: int) -> None:
    if size > DOCUMENT:
        raise UserError(f"{path} holds a document of over {DOCUMENT:,} characters; divide it into several")


def _json_texts(path: Path, text_key: str, stream: IO[str]) -> Iterator[str | None]:
    for number, record in enumerate(_records(path, stream), 1):
        where = f"record {number} of {path}"
        if not isinstance(record, dict):
            raise UserError(f"{where} is no JSON object")
        _require_key(where, text_key, record)
        text = record[text_key]
        if not isinstance(text, str | None):
            raise UserError(f"'{text_key}' in {where} is of type {type(text).__name__}, not a string")
        (text or "").encode()  # half a surrogate pair is valid JSON and no text
        yield text


def _records(path: Path, stream: IO[str]) -> Iterator[Any]:
    """An object a line; a .json file may be one array instead."""
    lines = _lines(path, stream)
    first = next(lines, "")
    if _kind(path) == ".json" and first.lstrip().startswith("["):
        yield from _parse(path, _joined(path, chain([first], lines)))
        return
    for line in chain([first], lines):
        if line.strip():
            yield _parse(path, line)


def _parse(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def _unpacked(path: Path, stream: IO[bytes]) -> pa.BufferReader:
    data = stream.read(DOCUMENT + 1)
    if len(data) > DOCUMENT:
        raise UserError(f"{path} unpacks to over {DOCUMENT:,} bytes; unpack it first: Parquet is compressed inside")
    return pa.BufferReader(data)


def _strings(path: Path, text_key: str, column: Any) -> Iterator[str | None]:
    _require_text(path, text_key, column.type)
    yield from column.to_pylist()


def _require_text(path: Path, text_key: str, kind: pa.DataType) -> None:
    if not any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise UserError(f"'{text_key}' in {path} is of type {kind}, not a string")


def _require_key(where: Path | str, text_key: str, keys: Iterable[str]) -> None:
    if text_key not in keys:
        raise UserError(f"{where} has no '{text_key}'; pass --text-key with one of: {', '.join(keys)}")


def _open(path: Path) -> Any:
    return OPENERS[path.suffix](path) if path.suffix in OPENERS else path.open("rb")


def _open_text(path: Path) -> IO[str]:
    return io.TextIOWrapper(_open(path), encoding="utf-8-sig")


@contextmanager
def _blame(path: Path) -> Iterator[None]:
    """Turn what libraries raise over a broken file into one line that names it."""
    try:
        yield
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise UserError(f"{path} is not valid UTF-8 ({error.reason}); convert it first") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error, pa.ArrowException) as error:
        require_given(path, error)
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child shares the mapping, and must not take it from its parent
        shutil.rmtree(folder, ignore_errors=True)
