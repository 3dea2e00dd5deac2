"""What is read of a folder from elsewhere is that folder's: no link leads out of it, no pipe is waited for."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clpds.bounds import SETTINGS
from clpds.checkpoint import open_checkpoint
from clpds.errors import UserError
from clpds.inside import read_json, require_own
from clpds.inspection.show import describe
from clpds.tokenizer_files import copy_tokenizer, require_small_files
from clpds.vocabulary.tokenizer import load_tokenizer
from tests.tiny import save_model, tiny_model, tiny_tokenizer

NAMES = (
    "chat_template.jinja", "merges.txt", "vocab.txt", "spiece.model", "added_tokens.json", "special_tokens_map.json",
    "tokenizer_config.json", "tokenizer.json", "config.json", "generation_config.json",
    "additional_chat_templates/tool.jinja",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(
        tmp_path_factory.mktemp("made") / "model", tiny_model("llama", 300), tiny_tokenizer("byte_bpe", vocab_size=300)
    )


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def put(file: Path, make: Callable[[Path], object]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    make(file)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda file: file.symlink_to("/dev/zero"), "is a link to /dev/zero, outside"),
        (lambda file: file.symlink_to(Path(__file__)), "is a link to .*test_links.py, outside its folder"),
        (os.mkfifo, "is a pipe, device or socket"),
        (Path.mkdir, "is a folder, where a file is expected"),
        (lambda file: (file.touch(), os.truncate(file, 10**10)), "has over [0-9,]+ bytes"),
    ],
    ids=["device", "elsewhere", "pipe", "folder", "sparse"],
)
def test_what_is_not_a_file_of_the_folder(name: str, make: Callable[[Path], object], says: str, model: Path) -> None:
    put(model / name, make)
    with pytest.raises(UserError, match=rf"{name} {says}"):
        require_small_files(model)


@pytest.mark.parametrize("read", [open_checkpoint, describe, load_tokenizer])
def test_every_reader_of_the_folder_looks_first(read: Callable[[Path], object], model: Path) -> None:
    put(model / "chat_template.jinja", lambda file: file.symlink_to("/dev/zero"))
    with pytest.raises(UserError, match=r"chat_template\.jinja is a link to /dev/zero, outside its folder"):
        read(model)


def test_nothing_from_elsewhere_is_copied(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    put(model / "merges.txt", lambda file: file.symlink_to("../secret"))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"merges\.txt is a link to .*secret, outside its folder; put a copy"):
        copy_tokenizer(model, tmp_path / "out")
    assert not (tmp_path / "out" / "merges.txt").exists()


def test_links_that_stay_are_followed(model: Path, tmp_path: Path) -> None:
    """In the folder, in the hub's cache from snapshot to blob, and of the whole folder; weights may lie anywhere."""
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "0123"
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copyfile(file, cache / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    weights = tmp_path / "scratch.safetensors"
    shutil.copyfile(model / "model.safetensors", weights)
    put(snapshot / "model.safetensors", lambda file: file.symlink_to(weights))
    (snapshot / "chat_template.jinja").symlink_to("config.json")
    (tmp_path / "link").symlink_to(snapshot)
    assert len(open_checkpoint(tmp_path / "link").tensors) > 0
    (tmp_path / "out").mkdir()
    copy_tokenizer(tmp_path / "link", tmp_path / "out")
    assert not any(file.is_symlink() for file in (tmp_path / "out").iterdir())
    put(snapshot / "merges.txt", lambda file: file.symlink_to("../../../models--a--c/blobs/0"))
    with pytest.raises(UserError, match="outside its folder"):
        require_own(snapshot / "merges.txt", SETTINGS)


def test_records_are_read_from_regular_files_of_bounded_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "long").write_text("1" * 101)
    for name, says in {"pipe": "is a pipe", "zero": "is a pipe, device", "long": "has over 100 bytes"}.items():
        with pytest.raises(UserError, match=says):
            read_json(tmp_path / name, 100)
