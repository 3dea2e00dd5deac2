"""Small files that ask for much: each is refused with one line, before anything is built of it.

They run in a process of little memory: what believes one of them ends there.
"""

import gzip
import json
import re
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from clpds import gguf_header
from clpds.bounds import COUNTED
from clpds.checkpoint import open_checkpoint
from clpds.data.labelled import read_labelled
from clpds.data.read import stream_documents
from clpds.errors import UserError
from clpds.headers import read_header
from clpds.inspection.show import describe
from clpds.model_counts import BOUNDS, require_counts
from clpds.planning.follow import model_config, vocabulary
from clpds.recipe import Recipe, read_yaml
from clpds.vocabulary.static import read_static
from clpds.vocabulary.tokenizer import load_tokenizer
from tests.tiny import save_model, tiny_model, tiny_tokenizer

MORE = 2 * 10**9  # bytes of address space that a test may take beside what the process has


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def planned(model: Path) -> object:
    return model_config(Recipe(Path("r.yaml"), {}), model)


def rows_planned(model: Path) -> object:
    return vocabulary(Recipe(Path("r.yaml"), {}), model)


@pytest.mark.parametrize("read", [open_checkpoint, describe, planned])
@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000, and no model has over 10,000"),
        ("llama", {"num_hidden_layers": 1e200}, "num_hidden_layers is 1e"),
        ("gpt2", {"n_layer": 10**9}, "n_layer is"),
        ("gpt2", {"num_labels": 10**9}, "num_labels is"),
        ("llama", {"text_config": {"decoder_layers": 10**9}}, "decoder_layers is"),
        ("llama", {"vocab_size": 10**10}, "vocab_size is"),
        ("llama", {"hidden_size": 10**4000}, "hidden_size is over 1e300"),
        ("llama", {"attention_types": [[["global", "local"], 10**9]]}, "attention_types is"),
        ("llama", {"num_local_experts": 10**9}, "num_local_experts is"),
        ("llama", {"num_experts": 10_000, "num_hidden_layers": 10_000}, "10,000 layers of 10,000 experts are too many"),
    ],
)
def test_counts_of_a_config(
    read: Callable[[Path], object], kind: str, values: dict[str, Any], says: str, tmp_path: Path
) -> None:
    tiny_model(kind, 300).config.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    text = json.dumps(json.loads(file.read_text()) | {key: values[key] for key in values if key != "hidden_size"})
    if "hidden_size" in values:  # Python does not write so long a number either
        text = re.sub(r'"hidden_size": \d+', '"hidden_size": 1' + "0" * 4000, text)
    file.write_text(text)
    with pytest.raises(UserError, match=rf"config\.json: {re.escape(says)}"):
        read(tmp_path / "model")


def test_no_config_of_transformers_is_beyond_the_bounds() -> None:
    for kind in CONFIG_MAPPING:
        try:
            config = CONFIG_MAPPING[kind]()
        except Exception:
            continue
        require_counts(config.to_dict())


# Where a class goes through as many of a thing as the text or the table is long, or through what a config does not say.
NOT_COUNTS = {
    "block_size", "config", "context_size", "d_model", "embed_positions", "frame_length", "hc_sinkhorn_iters",
    "max_backward", "max_position_embeddings", "max_target_positions", "n_positions", "num_conv_pos_embeddings",
    "num_convs", "num_image_with_embedding", "num_madeup_words", "num_positions", "num_resolutions",
    "number_of_token_type_embeddings", "offset", "pretraining_tp", "prompt_length", "sampling_num", "sp_model",
    "ssm_state_size", "time_marker_every_seconds", "z_steps", "_utf_vocab_size",
}  # fmt: skip


def test_what_language_models_loop_over_is_bounded() -> None:
    root, keys = Path(transformers.__file__).parent / "models", set[str]()
    for kind in {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_MASKED_LM_MAPPING_NAMES} & {*CONFIG_MAPPING}:
        for file in (root / CONFIG_MAPPING[kind].__module__.split(".")[2]).glob("*.py"):
            loops = (
                r"range\((?:[^()\n]*, )?(?:self|self\.config|config|text_config|config\.text_config)\.([a-z_0-9]+)\b"
            )
            keys |= set(re.findall(loops, file.read_text()))
    assert "num_hidden_layers" in keys
    bounds = {key: next((limit for form, limit in BOUNDS if form.search(key)), None) for key in keys - NOT_COUNTS}
    assert {key for key, limit in bounds.items() if limit is None or limit > COUNTED} == set()


IDS: dict[str, Callable[[Path], object]] = {
    "tokenizer.json": lambda file: edit(file, lambda d: d["model"]["vocab"].update(zz=2**32 - 2)),
    "added_tokens.json": lambda file: file.write_text(json.dumps({"zz": 2**32 - 2})),
    "vocab.json": lambda file: file.write_text(json.dumps({"a": 0, "zz": 2**32 - 2})),
    "tokenizer_config.json": lambda file: edit(
        file, lambda d: d.update(added_tokens_decoder={str(2**32 - 2): {"content": "zz", "special": True}})
    ),
}


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize("name", IDS)
def test_an_id_beyond_all_vocabularies(name: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", tiny_model("llama", 300), tiny_tokenizer("byte_bpe", vocab_size=300))
    IDS[name](folder / name)
    for read in (load_tokenizer, describe, rows_planned) if name == "tokenizer.json" else (load_tokenizer, describe):
        with pytest.raises(UserError, match=rf"{name} gives a token the id 4,294,967,294"):
            read(folder)


def merges(count: int) -> str:
    return "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, count))


def laughs(count: int) -> str:
    return "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, count))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (merges(26), "over 100,000 values, counted as often as aliases repeat them"),
        (laughs(40), "over 100,000 values"),
        ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 400)), "over 50 sections deep"),
        ("a: &a [*a]", "section 'a' holds itself"),
        ("".join(f"k{n}:\n" for n in range(60_000)), "over 100,000 values"),
        ("#" * (2**20 + 1), "has over 1,048,576 bytes"),
    ],
    ids=["merges", "laughs", "chain", "circle", "keys", "long"],
)
def test_yaml(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        read_yaml(tmp_path / "r.yaml")


def test_aliases_that_people_write_are_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n")
    assert read_yaml(tmp_path / "r.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2}


def test_a_name_that_stands_twice_among_many(tmp_path: Path) -> None:
    """Found in one pass: a comparison of each with each would take minutes."""
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    text = "{" + ",".join(f'"{name}":{entry}' for name in [*map(str, range(60_000)), "59999"]) + "}"
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text.encode())
    with pytest.raises(UserError, match="names 59999 twice"):
        read_header(tmp_path / "x.safetensors")


def gguf(*fields: bytes, tensors: int = 0, count: int | None = None) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, len(fields) if count is None else count) + b"".join(fields)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize("read", [gguf_header.read_header, open_checkpoint, describe])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gguf(text("llama.block_count") + struct.pack("<II", 4, 10**9)), "llama.block_count: 1,000,000,000"),
        (gguf(text("a") + struct.pack("<IIQ", 9, 8, 2**60)), "entries of an array: 1,152,921,504,606,846,976"),
        (gguf(text("a") + struct.pack("<IIQ", 9, 0, 2**62)), "entries of an array"),
        (gguf(text("a") + struct.pack("<IQ", 8, 2**62)), "bytes of a text"),
        (gguf(tensors=2**62), "tensors: "),
        (gguf(count=2**62), "fields: "),
        (gguf(text("w") + struct.pack("<I", 2**31), tensors=1, count=0), "dimensions of w: "),
    ],
)
def test_gguf(read: Callable[[Path], object], content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.gguf is no whole GGUF file \({re.escape(says)}"):
        read(tmp_path / "x.gguf")


def repeated(value: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))


def test_parquet_that_decodes_to_20_gigabytes(tmp_path: Path) -> None:
    table = pa.table({"text": repeated("x" * 20 * 10**6, 1000), "label": pa.array([1] * 1000)})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "x.parquet").stat().st_size < 5000
    says = r"x\.parquet has [0-9,]+ bytes and decodes to over [0-9,]+, which no text does"
    with pytest.raises(UserError, match=says):
        next(stream_documents([tmp_path / "x.parquet"]))
    with pytest.raises(UserError, match=says):
        read_labelled([tmp_path / "x.parquet"], "text", "label")


@pytest.mark.parametrize(
    "options",
    [{}, {"use_dictionary": False}, {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}],
)
def test_parquet_in_parts_is_what_was_written(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clpds.data.parquet.DECODED", 100)
    texts = [None if n % 7 == 0 else f"{n % 5} " * (n % 60) for n in range(1500)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet", row_group_size=700, **options)
    assert list(stream_documents([tmp_path / "x.parquet"])) == [text for text in texts if text and text.strip()]


@pytest.mark.parametrize("first", ["2000000000 300", "10 9999999999", "99999999999999999999 1"])
@pytest.mark.parametrize("name", ["x.vec", "x.vec.gz"])
def test_vectors_that_say_they_are_many(first: str, name: str, tmp_path: Path) -> None:
    content = f"{first}\na 0.5 0.5\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(UserError, match=r"its first line promises [0-9,]+ words of [0-9,]+ numbers"):
        read_static(tmp_path / name)
