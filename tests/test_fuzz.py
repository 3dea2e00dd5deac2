"""Whatever bytes a reader is given, it returns a value or says in one UserError what is wrong."""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clpds import manifest, provenance
from clpds.checkpoint.open import read_weights
from clpds.checkpoint.safetensors import read_safetensors
from clpds.data.links import read_links
from clpds.data.read import load_saved, stream_documents
from clpds.errors import UserError
from clpds.recipe import load_recipe
from clpds.run_folder import read_metrics, read_state
from clpds.vocabulary.dictionary import read_dictionary, read_parallel
from clpds.vocabulary.static import read_static
from launcher.hostlist import expand
from launcher.owner import read_owner
from launcher.profile import load_profile
from tests.tiny import tiny_model

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
NUMBERS = st.one_of(
    st.integers(-3, 200), st.integers(), st.floats(), st.booleans(), st.none(), st.sampled_from([10**400, 1e308])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
DEEP = b"[" * 100_000


def refused_or_read(read: Callable[[Path], object], name: str, content: bytes) -> None:
    """Any other exception than UserError fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        refused_or_value(lambda: read(file))


def refused_or_value(read: Callable[[], object]) -> None:
    with suppress(UserError):
        read()


def texts(*parts: str) -> st.SearchStrategy[bytes]:
    """Bytes: any, and what is nearly right."""
    near = st.lists(st.sampled_from(parts), max_size=12).map(lambda found: "".join(found).encode())
    return st.binary(max_size=60) | near | st.tuples(near, st.binary(max_size=3), near).map(b"".join)


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F4"]) | VALUES,
        "shape": st.lists(NUMBERS, max_size=3) | VALUES,
        "data_offsets": st.lists(NUMBERS, max_size=3) | VALUES,
    },
)


@FUZZ
@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__", "\ud800"]), ENTRY | VALUES, max_size=3).map(
        lambda document: json.dumps(document).encode()
    )
    | st.binary(max_size=60),
    extra=st.integers(-9, 9),
    weights=st.binary(max_size=16),
)
@example(DEEP, 0, b"")
def test_safetensors_headers(header: bytes, extra: int, weights: bytes) -> None:
    length = max(0, len(header) + extra).to_bytes(8, "little")

    def read(file: Path) -> None:
        for tensor in read_safetensors(file).values():
            if tensor.numel < 10**6:
                tensor.load()

    refused_or_read(read, "model.safetensors", length + header + weights)


@FUZZ
@given(st.binary(max_size=60))
def test_safetensors_files(content: bytes) -> None:
    refused_or_read(read_safetensors, "model.safetensors", content)


FILES = st.sampled_from(["model.safetensors", "..", ".", "", "../x", "/etc/passwd", "a\0b", "x" * 5000]) | VALUES


@FUZZ
@given(
    st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=3), FILES, max_size=3) | VALUES}).map(
        lambda document: json.dumps(document).encode()
    )
    | texts('{"weight_map"', ":", "{", "}", '"a"', "[", "]")
)
@example(DEEP)
def test_indices(content: bytes) -> None:
    refused_or_read(lambda file: read_weights(file.parent), "model.safetensors.index.json", content)


@FUZZ
@given(st.text(max_size=20) | st.text("ab[]-,01٣ \n", max_size=20))
@example("n[1-999999999]")
@example("n[0-9]" * 30)
@example(f"n[{'1' * 5000}]")
def test_hostlists(text: str) -> None:
    refused_or_value(lambda: expand(text))


@FUZZ
@given(
    texts("steps:", "\n", "  ", "a", ": ", "{", "}", "verb: train", "verb: data", ",", "[", "]", "&x ", "*x", "!!int ",
          "!!timestamp ", "!!binary ", "2024-99-99", "0x", "1_", "? ", "<<: ", "- ", "'", "|", "\x85", "1:99")
)  # fmt: skip
@example(b"steps: {a: {verb: train, <<: *x}}")
@example(b"steps: " + DEEP)
def test_recipes_and_profiles(content: bytes) -> None:
    refused_or_read(load_recipe, "r.yaml", content)
    refused_or_read(load_profile, "p.yaml", content)


STEPS = st.fixed_dictionaries(
    {"verb": st.sampled_from(["data", "train", "init", "report", "convert"])},
    optional=dict.fromkeys(("model", "data", "out", "source", "steps", "evals", "optimizer", "width", "input"), VALUES),
)


@FUZZ
@given(STEPS)
def test_values_of_recipes(step: dict[str, Any]) -> None:
    refused_or_read(load_recipe, "r.yaml", json.dumps({"steps": {"a": step}}).encode())


@FUZZ
@given(st.lists(st.text(max_size=12), max_size=3))
@example(["demo.x=!!timestamp 2024-99-99"])
def test_overrides(overrides: list[str]) -> None:
    refused_or_value(lambda: load_recipe(Path("demo.yaml"), overrides))
    refused_or_value(lambda: load_recipe(Path("demo.yaml"), [f"data.{text}" for text in overrides]))


@FUZZ
@given(texts("und", "and", "\t", " ", "\n", "\r", "\ufeff", "\x85", "ü"))
def test_dictionaries_and_parallel_text(content: bytes) -> None:
    refused_or_read(read_dictionary, "d.txt", content)
    refused_or_read(lambda file: list(read_parallel([file])), "d.txt", content)
    refused_or_read(lambda file: list(read_parallel([file, file])), "d.txt", content)


@FUZZ
@given(texts("2", "3", " ", "\n", "und ", "0.5 ", "1e999 ", "nan ", "-", "99999999999 ", "\t"))
@example(b"\xba\x16\x4f\x2f\x0c\0\0\0" + bytes(200))
@example(b"\xba\x16\x4f\x2f\x0c\0\0\0" + b"\1" * 200)
@example(b"9" * 5000 + b" 2\n")
def test_vectors(content: bytes) -> None:
    for name in ("words.vec", "words.bin", "words.vec.gz"):
        refused_or_read(read_static, name, content)


@FUZZ
@given(texts("0-0", " ", "\n", "1-", "٣-٣", "-", "3", "9" * 5000, "\x0b"))
@example(b"9" * 5000 + b"-1")
def test_alignments(content: bytes) -> None:
    refused_or_read(lambda file: list(read_links(file)), "a.txt", content)


@FUZZ
@given(texts('{"text": "a"}', "\n", "[", "]", ",", '{"text": 1}', '"', "\\ud800", "{", "9" * 5000, "nan"))
@example(DEEP)
def test_text(content: bytes) -> None:
    for name in ("a.txt", "a.jsonl", "a.json", "a.parquet", "a.txt.gz", "a.jsonl.xz", "a.txt.bz2", "a.txt.zst"):
        refused_or_read(lambda file: list(stream_documents([file])), name, content)


@FUZZ
@given(
    st.one_of(
        VALUES,
        st.fixed_dictionaries({"files": VALUES | st.dictionaries(st.text(max_size=4), VALUES, max_size=2)}),
        st.fixed_dictionaries(
            {"_data_files": VALUES | st.lists(st.fixed_dictionaries({"filename": VALUES}), max_size=2)}
        ),
        st.fixed_dictionaries({"state": VALUES, "step": VALUES}),
        st.fixed_dictionaries({"job": VALUES}),
    ).map(lambda document: json.dumps(document).encode())
    | st.binary(max_size=40)
)
@example(DEEP)
def test_our_own_records(content: bytes) -> None:
    refused_or_read(lambda file: provenance.read(file.parent), provenance.FILE, content)
    refused_or_read(lambda file: manifest.check_manifest(file.parent, deep=True), manifest.FILE, content)
    refused_or_read(lambda file: read_state(file.parent), "state.json", content)
    refused_or_read(lambda file: read_metrics(file.parent), "metrics.jsonl", content + b"\n" + content)
    refused_or_read(lambda file: read_owner(file.parent), "job.json", content)
    refused_or_read(lambda file: load_saved(file.parent), "state.json", content)


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A file of weights as torch writes it now, and as it did before 1.6."""
    import torch

    folder = tmp_path_factory.mktemp("bin")
    state = {name: tensor.clone() for name, tensor in list(tiny_model("gpt2", 97).state_dict().items())[:3]}
    for name, zipped in (("new", True), ("old", False)):
        torch.save(state, folder / name, _use_new_zipfile_serialization=zipped)
    return (folder / "new").read_bytes(), (folder / "old").read_bytes()


@FUZZ
@given(st.booleans(), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4), st.booleans())
def test_pickles_with_a_few_other_bytes(
    pickled: tuple[bytes, bytes], old: bool, place: float, other: bytes, early: bool
) -> None:
    """Half of them in the first kilobyte, where the pickle is."""
    content = pickled[old]
    first = int(place * (min(1000, len(content)) if early else len(content)))
    damaged = content[:first] + other + content[first + len(other) :]
    refused_or_read(lambda file: read_weights(file.parent), "pytorch_model.bin", damaged)
