"""`clpds data --label-key`: labelled texts for classification, a text a block."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import xxhash
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from clpds import provenance, recipe
from clpds.bounds import LABELLED_LINE
from clpds.data.blocks import FORMAT
from clpds.data.parquet import read_batches
from clpds.data.read import OPENERS, check_input
from clpds.data.tokenise import SPLITS, is_held_out
from clpds.errors import UserError
from clpds.output import new_folder
from clpds.refusals import require_given
from clpds.vocabulary.panics import no_panic
from clpds.vocabulary.tokenizer import ends_of, rows_needed, save_copy


@dataclass(frozen=True)
class Labelled:
    """Texts and the class of each."""

    texts: list[str]
    labels: list[str]

    def only(self, rows: Sequence[int]) -> "Labelled":
        """The texts with these numbers."""
        return Labelled([self.texts[row] for row in rows], [self.labels[row] for row in rows])


def read_labelled(inputs: Sequence[Path], text_key: str, label_key: str) -> Labelled:
    """All texts of JSONL or Parquet files, in order; a number as label counts as its digits.

    Raises UserError that names the file for one of another kind, without the keys or with a text or label missing.
    """
    texts: list[str] = []
    labels: list[str] = []
    for path in inputs:
        table = _read(path, text_key, label_key)
        _require_fields(path, table.column_names, text_key, label_key)
        for number, (text, label) in enumerate(
            zip(table[text_key].to_pylist(), table[label_key].to_pylist(), strict=True), 1
        ):
            if not isinstance(text, str) or not text.strip() or label is None:
                raise UserError(f"{path}: row {number:,} has no text in '{text_key}' or nothing in '{label_key}'")
            texts.append(text)
            labels.append(str(label))
    return Labelled(texts, labels)


def prepare_labelled(step: recipe.Data, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write ``step.out`` as `clpds data` does, a text a block: cut to ``sequence_length`` tokens, or padded.

    The classes are those of all inputs, in alphabetical order. Raises UserError for bad input and for one class only.
    """
    assert step.label_key is not None
    found = read_labelled(step.input, step.text_key, step.label_key)
    classes = sorted(set(found.labels))
    if len(classes) < 2:
        raise UserError(f"all texts have the same '{step.label_key}': {classes[0]}; there is nothing to tell")
    held_out = [is_held_out(text.encode(), step.seed, step.validation_fraction) for text in found.texts]
    counts: dict[str, dict[str, int]] = {}
    with new_folder(step.out, overwrite=step.overwrite) as out:
        for split in SPLITS:
            rows = [row for row, held in enumerate(held_out) if held == (split == "validation")]
            if not rows:
                continue
            dataset = encode(found.only(rows), classes, tokenizer, step.sequence_length)
            dataset.save_to_disk(str(out / split))
            counts[split] = {"documents": len(rows), "blocks": len(rows)}
        save_copy(step.tokenizer, tokenizer, out / "tokenizer")
        inputs = {"tokenizer": step.tokenizer / "tokenizer.json"}
        inputs |= {f"input {number}": path for number, path in enumerate(step.input, 1)}
        provenance.record(out, step, inputs, format=FORMAT, splits=counts)
    _show(classes, counts)


def _require_fields(path: Path, names: Sequence[str], *keys: str) -> None:
    for key in keys:
        if key not in names:
            raise UserError(f"{path} has no field '{key}' (its fields: {', '.join(names)})")


def _read(path: Path, text_key: str, label_key: str) -> pa.Table:
    check_input(path)
    name = path.name.removesuffix(path.suffix) if path.suffix in OPENERS else path.name
    try:
        if name.endswith((".jsonl", ".json")):
            with pa.input_stream(str(path)) as stream:
                return pa.json.read_json(stream, pa.json.ReadOptions(block_size=LABELLED_LINE))
        if name.endswith(".parquet"):
            schema = pq.read_schema(path)
            _require_fields(path, schema.names, text_key, label_key)
            batches = list(read_batches(path, path, list({text_key: 0, label_key: 0})))
            return pa.Table.from_batches(batches) if batches else schema.empty_table()
    except (OSError, pa.ArrowException) as error:
        require_given(path, error)
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    raise UserError(f"{path}: labelled texts are read from .jsonl, .json or .parquet files")


def encode(
    found: Labelled, classes: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> datasets.Dataset:
    """A block of ``length`` tokens for each text, with the number of its class in ``classes``."""
    start, end, padding = ends_of(tokenizer)
    dtype = "uint16" if rows_needed(tokenizer) <= 2**16 else "int32"
    room = length - len(start) - len(end)
    with no_panic(tokenizer.name_or_path):
        encodings = tokenizer.backend_tokenizer.encode_batch(found.texts, add_special_tokens=False)
    ids = np.full((len(encodings), length), padding, dtype)
    ends = np.empty(len(encodings), np.int32)
    for number, encoding in enumerate(encodings):
        text = [*start, *encoding.ids[:room], *end]
        ids[number, : len(text)], ends[number] = text, len(text)
    number_of = {name: number for number, name in enumerate(classes)}
    labels = np.array([number_of[label] for label in found.labels], np.int64)
    features = datasets.Features(
        input_ids=datasets.List(datasets.Value(dtype), length=length),
        ends=datasets.List(datasets.Value("int32")),
        predicted_bytes=datasets.Value("int64"),
        label=datasets.ClassLabel(names=list(classes)),
    )
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), length),
        pa.ListArray.from_arrays(pa.array(np.arange(len(ids) + 1, dtype=np.int32)), pa.array(ends)),
        pa.array(np.zeros(len(ids), np.int64)),
        pa.array(labels),
    ]
    table = pa.table(columns, schema=features.arrow_schema)
    digest = xxhash.xxh3_128()
    for part in (ids.tobytes(), ends.tobytes(), labels.tobytes(), "\n".join(classes).encode()):
        digest.update(part)
    return datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint=digest.hexdigest())


def _show(classes: Sequence[str], counts: dict[str, dict[str, int]]) -> None:
    table = Table("split", "texts")
    for split, count in counts.items():
        table.add_row(split, f"{count['documents']:,}")
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"{len(classes)} classes: {', '.join(classes)}", soft_wrap=True)
