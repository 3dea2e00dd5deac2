"""Writing: the same bytes twice, a stated limit, little memory, and nothing left behind."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
from collections import namedtuple
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from clpds import provenance
from clpds.checkpoint import Checkpoint, LazyTensor, anatomy, open_checkpoint, write_checkpoint
from clpds.checkpoint.write import parse_size
from clpds.errors import UserError
from clpds.recipe import Convert
from tests.tiny import save_model, tiny_model, tiny_tokenizer

ROWS = 300


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_model(tmp_path / "source", tiny_model("llama", ROWS), tiny_tokenizer("byte_bpe", vocab_size=ROWS))


def copy(
    source: Path, out: Path, *, overwrite: bool = False, size: str = "5GB", dtype: torch.dtype | None = None
) -> None:
    write_checkpoint(
        open_checkpoint(source),
        out,
        Convert(model=source, out=out, overwrite=overwrite),
        inputs={"model": source},
        card="# A model\n",
        dtype=dtype,
        max_shard_size=size,
        overwrite=overwrite,
        share=0.5,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_same_inputs_same_bytes(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "one", size="25KB")
    time.sleep(0.01)
    (tmp_path / "two").mkdir()
    copy(source, tmp_path / "two", size="25KB", overwrite=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_everything_a_user_needs_is_there(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "out", size="25KB", dtype=torch.bfloat16)
    files = contents(tmp_path / "out")
    shards = [name for name in files if name.endswith(".safetensors")]
    assert len(shards) > 2
    index = json.loads(files["model.safetensors.index.json"])
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == open_checkpoint(tmp_path / "out").nbytes
    assert all(len(files[name]) < 25_000 + 2_000 for name in shards)  # the header comes on top
    assert files["README.md"] == b"# A model\n"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert files[name] == (source / name).read_bytes()

    record = json.loads(files["provenance.json"])
    assert record["verb"] == "convert"
    assert record["share"] == 0.5
    assert record["inputs"]["model"]["files"]["model.safetensors"] == provenance.hash_file(source / "model.safetensors")
    assert record["files"].keys() == files.keys() - {"provenance.json"}
    assert provenance.verify(tmp_path / "out") == []

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    text = "Am Anfang schuf Gott"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(text).input_ids == AutoTokenizer.from_pretrained(source)(text).input_ids
    wanted = AutoModelForCausalLM.from_pretrained(source).to(torch.bfloat16).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


@pytest.fixture
def shards(source: Path, tmp_path: Path) -> Path:
    """The source in several files."""
    copy(source, tmp_path / "shards", size="25KB")
    return tmp_path / "shards"


def with_new_embedding(shards: Path, out: Path, **options: Any) -> dict[str, bytes]:
    """Weight files of a model that differs from ``shards`` in its embedding."""
    checkpoint = open_checkpoint(shards)
    new = LazyTensor.of(torch.ones(checkpoint.tensors["model.embed_tokens.weight"].shape))
    checkpoint = checkpoint.derive(replaced={"model.embed_tokens.weight": new})
    step = Convert(model=shards, out=out)
    write_checkpoint(checkpoint, out, step, inputs={"model": shards}, card="", keep_files=True, **options)
    written, wanted = open_checkpoint(out), checkpoint.tensors
    assert all(torch.equal(tensor.load(), wanted[name].load()) for name, tensor in written.tensors.items())
    assert provenance.verify(out) == []
    return {file.name: file.read_bytes() for file in out.glob("*.safetensors")}


def test_files_in_which_nothing_changes_are_taken_over_whole(shards: Path, tmp_path: Path) -> None:
    before = {file.read_bytes(): file.name for file in shards.glob("*.safetensors")}
    after = with_new_embedding(shards, tmp_path / "out")
    assert len(after.keys() - {name for name, data in after.items() if data in before}) == 1
    record = provenance.read(tmp_path / "out") or {}
    inputs = record["inputs"]["model"]["files"]
    assert inputs == {
        file.name: provenance.hash_file(file) for file in shards.iterdir() if file.name != provenance.FILE
    }


def test_larger_files_than_asked_for_are_cut(shards: Path, tmp_path: Path) -> None:
    after = with_new_embedding(shards, tmp_path / "out", max_shard_size="10KB")
    large = {file.read_bytes() for file in shards.glob("*.safetensors") if file.stat().st_size > 12_000}
    assert large
    assert not large & set(after.values())


def test_linked_files_are_the_sources_and_nothing_else_differs(shards: Path, tmp_path: Path) -> None:
    copied = with_new_embedding(shards, tmp_path / "copied")
    assert with_new_embedding(shards, tmp_path / "linked", link=True) == copied
    own = {file.stat().st_ino for file in shards.iterdir()}
    linked = sorted(file.name for file in (tmp_path / "linked").iterdir() if file.stat().st_ino in own)
    assert len(linked) == len(copied) - 1
    assert not any(file.stat().st_ino in own for file in (tmp_path / "copied").iterdir())
    record = provenance.read(tmp_path / "linked") or {}
    assert record["linked"] == linked
    assert not record["files"].keys() & set(linked)
    shutil.rmtree(shards)
    assert len(open_checkpoint(tmp_path / "linked").tensors) > 0


def test_tensors_that_have_changed_places_are_no_file_unchanged(source: Path, tmp_path: Path) -> None:
    """Every name and every shape of the file is as it was."""
    copy(source, tmp_path / "one")
    up = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1)]
    checkpoint = open_checkpoint(tmp_path / "one").derive(renamed={up[0]: up[1], up[1]: up[0]})
    step = Convert(model=source, out=tmp_path)
    write_checkpoint(checkpoint, tmp_path / "out", step, inputs={}, card="", keep_files=True)
    before, after = load_file(tmp_path / "one" / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(after[up[0]], before[up[1]])
    assert torch.equal(after[up[1]], before[up[0]])


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second file system")
def test_another_file_system_gets_a_copy_and_no_link(shards: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        out = Path(other) / "out"
        message = r"shards/model-.* cannot be linked to /dev/shm/.* \(Invalid cross-device link\); leave out --link"
        with pytest.raises(UserError, match=message):
            with_new_embedding(shards, out, link=True)
        assert list(Path(other).iterdir()) == []
        with_new_embedding(shards, out)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_named_with_their_file(value: float, tmp_path: Path) -> None:
    model = tiny_model("llama", ROWS)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[-1, -1] = value
    save_model(tmp_path / "source", model)
    message = r"tensor model\.layers\.1\.mlp\.up_proj\.weight of .*source/model\.safetensors holds NaN or infinity"
    with pytest.raises(UserError, match=message):
        copy(tmp_path / "source", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_large_numbers_whose_sum_is_none_are_numbers(tmp_path: Path) -> None:
    """Finite, though a float32 cannot hold their sum, or is NaN on the way there."""
    model = tiny_model("llama", ROWS)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(3e38)
        model.model.layers[1].mlp.up_proj.weight.copy_(3e38 * torch.sign(model.model.layers[1].mlp.up_proj.weight))
    save_model(tmp_path / "source", model)
    copy(tmp_path / "source", tmp_path / "out")
    assert float(load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].max()) > 1e38


def test_overflow_in_the_type_asked_for_is_named(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    large = LazyTensor.of(torch.full((32,), 1e6), "a test")
    step = Convert(model=source, out=tmp_path / "out")
    with pytest.raises(UserError, match=r"model\.norm\.weight of a test holds NaN or infinity as float16"):
        write_checkpoint(
            checkpoint.derive(replaced={"model.norm.weight": large}),
            tmp_path / "out",
            step,
            inputs={},
            card="",
            dtype=torch.float16,
        )
    assert not (tmp_path / "out").exists()


def test_tensors_that_do_not_fit_the_config_are_never_written(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source).derive(replaced={"model.norm.weight": LazyTensor.of(torch.zeros(31))})
    with pytest.raises(ValueError, match=r"do not fit LlamaForCausalLM and its config: model\.norm\.weight"):
        write_checkpoint(checkpoint, tmp_path / "out", Convert(model=source, out=tmp_path), inputs={}, card="")
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_kept_unless_told(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=r"out exists; choose another folder or pass --overwrite"):
        copy(source, tmp_path / "out", size="25KB")
    assert contents(tmp_path / "out") == before
    copy(source, tmp_path / "out", size="25KB", overwrite=True)
    assert "model.safetensors" not in contents(tmp_path / "out")


def test_a_model_replaces_neither_itself_nor_the_folder_it_lies_in(source: Path, tmp_path: Path) -> None:
    before = contents(source)
    for out in (tmp_path, source):
        with pytest.raises(UserError, match=r"exists and will not be replaced: it has no provenance.json of clpds"):
            copy(source, out, overwrite=True)
    assert contents(source) == before


def test_a_disk_too_small_is_known_before(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(UserError, match=r"out needs \d+\.\d kB, but .* has 1\.0 kB free"):
        copy(source, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("500mb", 5 * 10**8), ("1.5 KB", 1500), ("2GiB", 2 * 2**30), ("1TB", 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "GB", "-5GB", "0GB", "5XB", "five GB", "1.2.3MB", "infGB", "nanGB", "1_0MB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UserError, match="is not a size such as 500MB or 5GB"):
        parse_size(text)


def large_model(pause: float) -> Checkpoint:
    """A GPT-2 of 650 MB in tensors of 26 MB at most, none of which exists before it is asked for."""
    config = GPT2Config(vocab_size=4096, n_embd=1280, n_layer=8, n_head=20)

    def lazy(shape: tuple[int, ...]) -> LazyTensor:
        def load() -> torch.Tensor:
            time.sleep(pause)
            return torch.ones(shape)

        return LazyTensor(shape, torch.float32, load)

    return Checkpoint({name: lazy(shape) for name, shape in anatomy(config).shapes.items()}, config)


def write_large(out: Path, pause: float, grown: Any) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background of a shell
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = Convert(model=out, out=out)
    checkpoint = large_model(pause)
    write_checkpoint(checkpoint, out, step, inputs={}, card="", max_shard_size="200MB", overwrite=True)
    grown.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def start_writing(out: Path, pause: float) -> tuple[BaseProcess, Any]:
    fork = multiprocessing.get_context("fork")
    grown: Any = fork.Queue()
    process = fork.Process(target=write_large, args=(out, pause, grown))
    process.start()
    return process, grown


def test_memory_follows_the_largest_tensor(tmp_path: Path) -> None:
    process, grown = start_writing(tmp_path / "out", pause=0)
    largest = max(tensor.nbytes for tensor in large_model(0).tensors.values())
    assert large_model(0).nbytes > 600 * 10**6
    assert grown.get(timeout=120) < 5 * largest
    process.join()


@pytest.mark.parametrize("before", [False, True])
def test_ctrl_c_leaves_no_folder_and_the_old_one_whole(before: bool, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if before:
        copy(source, out)
    names = {path.name for path in tmp_path.iterdir()}
    process, _ = start_writing(out, pause=0.05)
    while not list(tmp_path.glob("out.clpds-*/new/model-00001-of-00004.safetensors")) and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 1
    assert {path.name for path in tmp_path.iterdir()} == names
    if before:
        assert provenance.verify(out) == []
