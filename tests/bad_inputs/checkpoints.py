"""Model folders: configs, indices, safetensors headers, files of other programs."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.bad_inputs.row import Change, Row, cut, edit, header, link, remove, write

CONVERT, SHARDED = "convert model out", "convert sharded out"
FILE, INDEX = "model/model.safetensors", "sharded/model.safetensors.index.json"
NORM = "model.norm.weight"
ENTRY = {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}


def entry(**changes: Any) -> Change:
    """Change the header's entry of one tensor."""
    return header(FILE, lambda entries: entries[NORM].update(changes))


def index(**files: str) -> Change:
    """Rename tensors' shards in the index; a name with dots goes in as **{...}."""

    def change(folder: Path) -> None:
        file = folder / INDEX
        document = json.loads(file.read_text())
        document["weight_map"] |= files
        file.write_text(json.dumps(document))

    return change


def twice(entries: dict[str, Any]) -> str:
    """One tensor under the same name again."""
    text = json.dumps(entries)
    return text[:-1] + f', "{NORM}": {json.dumps(entries[NORM])}}}'


def poison(folder: Path) -> None:
    """Put a NaN into the norm."""
    tensors = load_file(folder / FILE)
    tensors[NORM][3] = torch.nan
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def double(folder: Path) -> None:
    """Put a tensor of one shard into another too."""
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    other = next(file for file in weight_map.values() if file != weight_map[NORM])
    tensors = load_file(folder / "sharded" / other)
    tensors[NORM] = load_file(folder / "sharded" / weight_map[NORM])[NORM]
    save_file(tensors, folder / "sharded" / other, metadata={"format": "pt"})


def save_list(folder: Path) -> None:
    """A pickle of plain values, no tensors by name."""
    torch.save([1, 2], folder / "model" / "pytorch_model.bin")


ROWS = [
    Row("model that is not there", "convert no/such/model out", "no/such/model does not exist"),
    Row("model that is a file", "inspect de.txt", "de.txt is no"),
    Row("model that is no hub id", "convert 'a b' out", "a b does not exist"),
    Row("output that exists", "convert model english", "english exists and will not be replaced: it has no"),
    Row("output that is a file", "convert model de.txt --overwrite", "de.txt is a file or a link"),
    Row(
        "output that holds its input",
        "convert old/model old --overwrite",
        "old contains old/model, which is read; choose another out",
        (lambda folder: (folder / "model").rename(folder / "old" / "model"),),
    ),
    Row("output below a file", "convert model de.txt/out", "cannot be written"),
    Row("size that is none", "convert model out --max-shard-size 5parsecs", "max_shard_size '5parsecs' is not a size"),
    Row("no config", CONVERT, "model has no config.json", (remove("model/config.json"),)),
    Row("config that is no JSON", CONVERT, "model/config.json describes no model", (write("model/config.json", "{"),)),
    Row(
        "config nested too deeply",
        CONVERT,
        "model/config.json describes no model",
        (write("model/config.json", "[" * 100_000),),
    ),
    Row(
        "config that wants its own code run",
        CONVERT,
        "model/config.json describes no model",
        (
            edit("model/config.json", model_type="mine", auto_map={"AutoConfig": "mine.Mine"}),
            write("model/mine.py", "open('mark', 'w')"),
        ),
    ),
    Row(
        "heads that do not divide",
        CONVERT,
        "model/config.json describes no model",
        (edit("model/config.json", num_attention_heads=5, head_dim=None),),
    ),
    Row(
        "hidden size of another model",
        CONVERT,
        "misshapen for LlamaForCausalLM",
        (edit("model/config.json", hidden_size=64),),
    ),
    Row(
        "generation config that is no JSON",
        CONVERT,
        "model/generation_config.json cannot be read",
        (write("model/generation_config.json", "{"),),
    ),
    Row("no weights", CONVERT, "model has no weights", (remove(FILE),)),
    Row("weights cut short", CONVERT, "is truncated or damaged", (cut(FILE, 0.7),)),
    Row("header cut short", CONVERT, "its header cannot be read", (cut(FILE, 0.001),)),
    Row(
        "header of a gigabyte",
        CONVERT,
        "its header cannot be read",
        (write(FILE, (10**9).to_bytes(8, "little") + b"{}"),),
    ),
    Row("header longer than can be", CONVERT, "its header cannot be read", (write(FILE, b"\xff" * 16),)),
    Row(
        "header nested too deeply", CONVERT, "its header cannot be read", (header(FILE, lambda entries: "[" * 100_000),)
    ),
    Row("header that is a list", CONVERT, "its header cannot be read", (header(FILE, lambda entries: "[]"),)),
    Row("two tensors of one name", CONVERT, f"names {NORM} twice", (header(FILE, twice),)),
    Row("negative offset", CONVERT, f"its header misplaces {NORM}", (entry(data_offsets=[-128, 0]),)),
    Row("overlapping offsets", CONVERT, "its header misplaces", (entry(data_offsets=[64, 192]),)),
    Row("offset beyond the file", CONVERT, "its header misplaces", (entry(data_offsets=[10**15, 10**15 + 128]),)),
    Row("infinite offset", CONVERT, "its header cannot be read", (entry(data_offsets=[0, float("inf")]),)),
    Row("negative size", CONVERT, f"its header misplaces {NORM}", (entry(shape=[-32]),)),
    Row("size that is a fraction", CONVERT, "its header cannot be read", (entry(shape=[32.5]),)),
    Row("type that is unknown", CONVERT, f"tensor {NORM} is of type F4, which is not supported", (entry(dtype="F4"),)),
    Row(
        "type that is a list",
        CONVERT,
        f"tensor {NORM} is of type ['F32'], which is not supported",
        (entry(dtype=["F32"]),),
    ),
    Row(
        "tensor that controls the terminal",
        CONVERT,
        r"unexpected for LlamaForCausalLM: \x1b[2J\n",
        (
            header(
                FILE,
                lambda entries: entries.update({"\x1b[2J\n": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
            ),
        ),
    ),
    Row("NaN", CONVERT, f"tensor {NORM} of model/model.safetensors holds NaN", (poison,)),
    Row(
        "index out of its folder",
        SHARDED,
        "names '../model/model.safetensors', which lies outside its folder",
        (index(**{NORM: "../model/model.safetensors"}),),
    ),
    Row(
        "index with an absolute path",
        SHARDED,
        "names '/etc/passwd', which lies outside its folder",
        (index(**{NORM: "/etc/passwd"}),),
    ),
    Row(
        "index that names the folder above",
        SHARDED,
        "names '..', which lies outside its folder",
        (index(**{NORM: ".."}),),
    ),
    Row("index with a null byte", SHARDED, r"a\x00b", (index(**{NORM: "a\0b"}),)),
    Row(
        "index that names a missing shard",
        SHARDED,
        "sharded/gone.safetensors is missing, but",
        (index(**{NORM: "gone.safetensors"}),),
    ),
    Row("index nested too deeply", SHARDED, "is no valid index", (write(INDEX, "[" * 100_000),)),
    Row("index that is a list", SHARDED, "is no valid index", (write(INDEX, "[]"),)),
    Row("tensor in two shards", SHARDED, "hold one tensor", (double,)),
    Row(
        "shard that is a link to another file",
        CONVERT,
        "is truncated or damaged (its header cannot be read)",
        (link(FILE, "/etc/passwd"),),
    ),
    Row("shard that is a link to itself", CONVERT, "model", (link(FILE, "model.safetensors"),)),
    Row(
        "pickle that is none",
        CONVERT,
        "model/pytorch_model.bin",
        (remove(FILE), write("model/pytorch_model.bin", "x" * 99)),
    ),
    Row("pickle of a list", CONVERT, "model/pytorch_model.bin", (remove(FILE), save_list)),
    Row(
        "GGUF that is none",
        "convert x.gguf out",
        "x.gguf is no whole GGUF file",
        (write("x.gguf", b"GGUF" + bytes(60)),),
    ),
    Row("GGUF that is none, to look at", "inspect x.gguf", "x.gguf", (write("x.gguf", b"GGUF" + b"\xff" * 60),)),
    Row(
        "GGUF that is none, to plan",
        "plan r.yaml train.model=x.gguf --gpu cpu",
        "x.gguf is no whole GGUF file",
        (write("x.gguf", b"GGUF" + b"\3\0\0\0" + b"\xff" * 52),),
    ),
    Row("encoder without positions for the text", "eval bert --data de.txt --sequence-length 4096", "4096"),
]
