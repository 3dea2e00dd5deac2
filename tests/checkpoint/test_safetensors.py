"""The format against the library that defines it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clpds.checkpoint.lazy import LazyTensor
from clpds.checkpoint.safetensors import CHUNK, DTYPES, read_safetensors, write_safetensors
from clpds.errors import UserError


def some_of_every_type() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    kinds = [(torch.randint(0, 2, (3, 5)) * 7).to(dtype) for dtype in DTYPES.values()]
    tensors = {f"{len(kinds) - place:02}.a": tensor for place, tensor in enumerate(kinds)}
    tensors |= {f"{place:02}.b": tensor[1:] for place, tensor in enumerate(kinds)}
    return {name: tensor.clone() for name, tensor in tensors.items()} | {
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        'Wörter "in" \\ names\n': torch.arange(7),
        "over a chunk": torch.randn(CHUNK // 4 + 5),
        "rows over a chunk": torch.randn(3, CHUNK // 4 + 1),
        "in memory only": torch.randn(3, 11, 7).transpose(0, 2),
    }


def write(file: Path, tensors: dict[str, torch.Tensor]) -> list[int]:
    lazy = {name: LazyTensor.of(tensor) for name, tensor in tensors.items()}
    for computed in ("empty", "over a chunk", "rows over a chunk", "scalar"):
        lazy[computed] = replace(lazy[computed], rows=None)
    return [len(chunk) for chunk in write_safetensors(file, lazy)]


def test_written_files_equal_the_librarys(tmp_path: Path) -> None:
    tensors = some_of_every_type()
    sizes = write(tmp_path / "ours", tensors)
    tensors["in memory only"] = tensors["in memory only"].contiguous()
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert sum(sizes) == (tmp_path / "ours").stat().st_size


def test_read_tensors_equal_the_librarys(tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in some_of_every_type().items()}, tmp_path / "file")
    found = read_safetensors(tmp_path / "file")
    wanted = load_file(tmp_path / "file")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        lazy = found[name]
        assert (lazy.shape, lazy.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(lazy.load().reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
        if tensor.dim():
            assert lazy.rows is not None
            assert torch.equal(lazy.rows(1, 3).view(torch.uint8), tensor[1:3].view(torch.uint8))


def rewrite(file: Path, **changes: object) -> None:
    """Replace fields of the header's one entry."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["x"] |= changes
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [5, 4]}, "misplaces x"),
        ({"shape": [-3, -4]}, "misplaces x"),
        ({"data_offsets": [4, 52]}, "misplaces x"),
        ({"shape": [2, 4], "data_offsets": [0, 32]}, "48 bytes of weights instead of 32"),
        ({"dtype": "F4"}, "tensor x is of type F4, which is not supported"),
        ({"dtype": None}, "tensor x is of type None, which is not supported"),
        ({"shape": 3}, "its header cannot be read"),
    ],
)
def test_a_header_that_speaks_of_other_bytes_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    save_file({"x": torch.zeros(3, 4)}, tmp_path / "file")
    rewrite(tmp_path / "file", **changes)
    with pytest.raises(UserError, match=message):
        read_safetensors(tmp_path / "file")


@pytest.mark.parametrize("data", [b"", b"1234", b"\xff" * 64, bytes(8), (2).to_bytes(8, "little") + b"[]"])
def test_a_file_of_something_else_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UserError, match=r"file is truncated or damaged \(its header cannot be read\)"):
        read_safetensors(tmp_path / "file")


def test_a_file_that_shrinks_or_goes_away_is_named(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3, 4)}, tmp_path / "file")
    lazy = read_safetensors(tmp_path / "file")["x"]
    with (tmp_path / "file").open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(UserError, match="file became shorter"):
        lazy.load()
    (tmp_path / "file").unlink()
    with pytest.raises(UserError, match="file cannot be read: No such file"):
        lazy.load()
