"""Opening reads headers; bad input is one line that names the file or the tensor."""

import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BertModel, PreTrainedModel

from clpds.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from clpds.errors import UserError
from tests.tiny import save_model, tiny_model, tiny_tokenizer

ROWS = 97


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama in several shards."""
    model = tiny_model("llama", ROWS, tied=False)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    return tmp_path / "model"


def sparse_model(folder: Path, gigabytes: int) -> None:
    """A GPT-2 whose weights are a hole in the file: the header is there, the bytes take no disk."""
    rows = gigabytes * 10**9 // 4 // 1024
    model = tiny_model("gpt2", ROWS, n_embd=1024, n_layer=1)
    model.config.vocab_size = rows
    model.config.save_pretrained(folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    shapes["transformer.wte.weight"] = (rows, 1024)
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def resident() -> int:
    """Resident memory, mapped pages included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_opening_40_gb_reads_no_weights(tmp_path: Path) -> None:
    sparse_model(tmp_path, gigabytes=40)
    open_checkpoint(save_model(tmp_path / "warm", tiny_model("gpt2", ROWS)))
    before = resident()
    checkpoint = open_checkpoint(tmp_path)
    embedding = checkpoint.tensors["transformer.wte.weight"]
    assert embedding.rows is not None
    assert embedding.rows(10**6, 10**6 + 3).shape == (3, 1024)
    assert embedding.flat(4 * 10**9, 4 * 10**9 + 5000).shape == (5000,)
    assert checkpoint.nbytes > 39 * 10**9
    assert resident() - before < 50 * 10**6


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flat_is_a_slice_of_the_flat_tensor_and_reads_only_its_rows(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 5), max_size=3))
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, tensor.numel())] * 2)))
    read: list[tuple[int, int]] = []

    def rows(first: int, last: int) -> torch.Tensor:
        read.append((first, last))
        return tensor[first:last]

    lazy = LazyTensor(tuple(shape), tensor.dtype, lambda: tensor, rows if shape else None)
    assert torch.equal(lazy.flat(start, stop), tensor.reshape(-1)[start:stop])
    if shape and start < stop:
        width = tensor[0].numel()
        assert read == [(start // width, (stop - 1) // width + 1)]


def test_derive_replaces_drops_renames_and_adds(folder: Path) -> None:
    old = open_checkpoint(folder)
    a, b, c, *rest = old.tensors
    one, two = LazyTensor.of(torch.ones(1)), LazyTensor.of(torch.zeros(2))
    new = old.derive(replaced={"b": one}, dropped=(a,), renamed={b: "b", c: b}, added={a: two})
    assert list(new.tensors) == ["b", b, *rest, a]
    assert new.tensors["b"] is one
    assert new.tensors[a] is two
    assert new.tensors[b] is old.tensors[c]
    assert list(old.tensors) == [a, b, c, *rest]
    swapped = old.derive(renamed={a: b, b: a})
    assert (swapped.tensors[a], swapped.tensors[b]) == (old.tensors[b], old.tensors[a])
    for wrong in ({"dropped": ("x",)}, {"renamed": {"x": "y"}}, {"renamed": {a: b}}, {"replaced": {"x": one}}):
        with pytest.raises(KeyError):
            old.derive(**wrong)
    with pytest.raises(KeyError):
        old.derive(added={a: one})


def test_a_hub_id_opens_from_the_cache_and_is_named_where_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2", ROWS)
    repository = tmp_path / "hub" / "models--org--tiny"
    save_model(repository / "snapshots" / "0123abc", model, tiny_tokenizer("byte_bpe", vocab_size=300))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    found = open_checkpoint("org/tiny")
    assert found.tensors.keys() == dict(model.named_parameters()).keys()
    assert found.tokenizer_folder == found.path == repository / "snapshots" / "0123abc"
    with pytest.raises(UserError, match="org/other is no folder here, and the hub does not give it: "):
        open_checkpoint("org/other")


class Evil:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(Path(__file__).parent / "evil"),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    model = tiny_model("gpt2", ROWS)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict() | {"evil": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is damaged or holds more than tensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        open_checkpoint(tmp_path)
    assert not (Path(__file__).parent / "evil").exists()


def test_sharded_bin_files_open(tmp_path: Path) -> None:
    state = tiny_model("llama", ROWS, tied=False).state_dict()
    tiny_model("llama", ROWS, tied=False).config.save_pretrained(tmp_path)
    files = {name: f"pytorch_model-{place % 2}.bin" for place, name in enumerate(state)}
    for file in set(files.values()):
        torch.save({name: tensor for name, tensor in state.items() if files[name] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    opened = open_checkpoint(tmp_path).tensors
    assert list(opened) == list(state)
    assert all(torch.equal(opened[name].load(), tensor) for name, tensor in state.items())


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_shard(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "model-00001-of-00007.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def truncate(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 10)


SHARD = "model-00002-of-00007.safetensors"
NORM = "model.norm.weight"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda f: (f / SHARD).unlink(), rf"{SHARD} is missing, .*download it again"),
    "truncated shard": (lambda f: truncate(f / SHARD), rf"{SHARD} is truncated or damaged \(.*download it again"),
    "empty shard": (lambda f: (f / SHARD).write_bytes(b""), rf"{SHARD} is truncated or damaged"),
    "index outside the folder": (
        lambda f: edit_index(f, lambda files: files.update({NORM: "../secret.safetensors"})),
        r"index\.json names '\.\./secret\.safetensors', which lies outside",
    ),
    "absolute index": (
        lambda f: edit_index(f, lambda files: files.update({NORM: "/etc/passwd"})),
        r"names '/etc/passwd', which lies outside",
    ),
    "index lists more": (
        lambda f: edit_index(f, lambda files: files.update({"model.more": SHARD})),
        rf"index\.json lists model\.more in {SHARD}, which is not there",
    ),
    "index lists another shard": (
        lambda f: edit_index(f, lambda files: files.update({"model.embed_tokens.weight": SHARD})),
        rf"lists model\.embed_tokens\.weight in {SHARD}",
    ),
    "index is no JSON": (
        lambda f: (f / "model.safetensors.index.json").write_text("{"),
        r"index\.json is no valid index .*; download it again",
    ),
    "index is a list": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"),
        r"index\.json is no valid index",
    ),
    "no weights": (
        lambda f: [file.unlink() for file in f.glob("*.safetensors*")],
        r"has no weights \(model\.safetensors or pytorch_model\.bin",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), r"has no config\.json; expected a Hugging Face model"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json describes no model"),
    "config without type": (lambda f: (f / "config.json").write_text("{}"), r"config\.json describes no model"),
    "config with wrong type": (lambda f: edit_config(f, hidden_size="x"), r"config\.json describes no model"),
    "config that does not add up": (lambda f: edit_config(f, pad_token_id=ROWS), r"config\.json describes no model"),
    "no language model": (
        lambda f: (f / "config.json").write_text('{"model_type": "vit"}'),
        r"config\.json: model type 'vit' has no causal or masked language model",
    ),
    "misshapen": (
        lambda f: edit_config(f, vocab_size=98),
        r"misshapen .*embed_tokens.weight \(97, 32\) instead of \(98,",
    ),
    "missing layer": (lambda f: edit_config(f, num_hidden_layers=3), r"missing for LlamaForCausalLM: .* and 4 more"),
    "unexpected layer": (lambda f: edit_config(f, num_hidden_layers=1), r"unexpected for LlamaForCausalLM: model\.lay"),
    "unexpected tensor": (
        lambda f: edit_shard(f, lambda tensors: tensors.update(extra=torch.zeros(1))),
        r"unexpected for LlamaForCausalLM: extra;",
    ),
    "damaged generation config": (
        lambda f: (f / "generation_config.json").write_text("{"),
        r"generation_config\.json cannot be read",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_names_it(case: str, folder: Path) -> None:
    damage, message = BAD[case]
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        open_checkpoint(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/no/such/folder", "/no/such/folder does not exist"),
        ("no/such/folder", "no/such/folder does not exist"),
        (__file__, "is a file; expected a Hugging Face model folder"),
        ("nothing.gguf", "nothing.gguf does not exist"),
    ],
)
def test_a_path_that_is_no_model(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_checkpoint(path)


def test_a_damaged_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(UserError, match=r"x\.gguf is no whole GGUF file"):
        open_checkpoint(tmp_path / "x.gguf")


def test_a_body_without_its_pooler_is_refused(tmp_path: Path) -> None:
    model = tiny_model("bert", ROWS)
    assert isinstance(model.bert, BertModel)
    model.bert.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"missing for BertModel: pooler\.dense\.weight, "):
        open_checkpoint(tmp_path)


def save_as(folder: Path, model: PreTrainedModel, *, tied: bool, **extra: torch.Tensor) -> Path:
    """The weights of ``model`` under a config that says otherwise."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder)
    save_file(state | extra, folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(folder, tie_word_embeddings=tied)
    return folder


def test_tied_config_with_two_different_matrices_is_refused(tmp_path: Path) -> None:
    folder = save_as(tmp_path, tiny_model("llama", ROWS, tied=False), tied=True)
    with pytest.raises(UserError, match=r"ties lm_head\.weight to model\.embed_tokens\.weight, but .* to false there"):
        open_checkpoint(folder)


def test_tied_config_with_the_matrix_twice_opens(tmp_path: Path) -> None:
    folder = save_as(tmp_path, tiny_model("llama", ROWS, tied=True), tied=True)
    assert "lm_head.weight" not in open_checkpoint(folder).tensors


def test_tied_matrix_under_the_name_of_the_head_only(tmp_path: Path) -> None:
    model = tiny_model("llama", ROWS, tied=True)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    opened = open_checkpoint(tmp_path).tensors["model.embed_tokens.weight"].load()
    assert torch.equal(opened, model.get_input_embeddings().weight)


def test_untied_config_without_a_head_is_refused(tmp_path: Path) -> None:
    """transformers would draw a random head."""
    tiny_model("llama", ROWS, tied=True).save_pretrained(tmp_path)
    edit_config(tmp_path, tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"missing .*: lm_head\.weight; .* set tie_word_embeddings to true"):
        open_checkpoint(tmp_path)


def test_the_tokenizer_and_generation_config_come_along(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "a", tiny_model("gpt2", ROWS), tiny_tokenizer("byte_bpe", vocab_size=300))
    opened: Checkpoint = open_checkpoint(folder)
    assert opened.tokenizer_folder == folder
    assert opened.generation_config is not None
    assert opened.generation_config.eos_token_id == 1
    shutil.copytree(folder, tmp_path / "b", ignore=shutil.ignore_patterns("tokenizer*", "generation*"))
    bare = open_checkpoint(tmp_path / "b")
    assert (bare.tokenizer_folder, bare.generation_config) == (None, None)
