"""Columns of a Parquet file in batches that fit into memory, whatever they decode to.

A dictionary, or a delta to the row before, makes one long value stand in any number of rows: 1 kB may hold 20 GB.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clpds.bounds import DECODED, DOCUMENT, EXPANSION, ROWS, SMALL
from clpds.errors import UserError

DICTIONARIES = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}
DELTAS = "DELTA_BYTE_ARRAY"
BLIND = 8  # rows
ROW = 8  # bytes that a row counts for itself: there may be any number of empty ones


def read_batches(path: Path, source: Path | pa.BufferReader, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Record batches of these columns, in order, of at most ROWS rows, and of DECODED bytes where not one row has more.

    ``source`` is ``path``, or what it unpacks to. Raises UserError for a row of over DOCUMENT bytes and for a file that
    decodes to more than any text does (EXPANSION times its size), before it is decoded; ArrowException as pyarrow does.
    """
    plain = pq.ParquetFile(source)
    size = source.size() if isinstance(source, pa.BufferReader) else path.stat().st_size
    schema = plain.schema_arrow
    texts = [name for name in columns if _is_text(schema.field(name).type)]
    coded = pq.ParquetFile(source, read_dictionary=texts)
    total = ROW * plain.metadata.num_rows
    for number in range(plain.num_row_groups):
        group = plain.metadata.row_group(number)
        chunks = [group.column(place) for place in range(group.num_columns)]
        chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
        _require_real(path, total + sum(chunk.total_uncompressed_size for chunk in chunks), size)
        repeated = [chunk for chunk in chunks if DICTIONARIES & {*chunk.encodings}]
        # What cannot be looked at before it is decoded is decoded a few rows at a time.
        blind = any(chunk.physical_type == "BYTE_ARRAY" and chunk.path_in_schema not in texts for chunk in repeated)
        blind = blind or any(DELTAS in chunk.encodings for chunk in chunks)
        reader = coded if repeated else plain
        for batch in reader.iter_batches(BLIND if blind else ROWS, row_groups=[number], columns=list(columns)):
            lengths = sum((_lengths(column) for column in batch.columns), start=np.zeros(len(batch), np.int64))
            total += int(lengths.sum())
            _require_real(path, total, size)
            if len(lengths) and lengths.max() > DOCUMENT:
                raise UserError(f"{path} holds a row of over {DOCUMENT:,} bytes; divide it into several")
            yield from _parts(batch, lengths)


def _require_real(path: Path, decoded: int, size: int) -> None:
    if decoded > max(SMALL, EXPANSION * size):
        raise UserError(f"{path} has {size:,} bytes and decodes to over {decoded:,}, which no text does")


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _lengths(column: pa.Array) -> np.ndarray:
    """Bytes of each value, decoded; 0 for what is no text."""
    if pa.types.is_dictionary(column.type):
        lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
    elif _is_text(column.type):
        lengths = pc.binary_length(column)
    else:
        return np.zeros(len(column), np.int64)
    return pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _parts(batch: pa.RecordBatch, lengths: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The batch without dictionaries: in one part, or in several where it is long."""
    ends, start = np.cumsum(lengths), 0
    while start < len(batch):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + DECODED, side="right")))
        part = batch.slice(start, stop - start)
        yield pa.RecordBatch.from_arrays([_plain(column) for column in part.columns], names=part.schema.names)
        start = stop


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
