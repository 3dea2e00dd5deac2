"""What is written has the permissions that the user's umask gives, temporary files too: a group may share the work."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clpds.conversion.convert import convert
from clpds.data.prepare import prepare
from clpds.recipe import Convert, Data, Init, Saving, Tokenizer, Train
from clpds.training.group import process_group
from clpds.training.loop import train
from clpds.training.stopping import StopFlag
from clpds.transfer.init import init
from clpds.vocabulary.train import train_tokenizer
from tests.ranks import run_ranks
from tests.training.stages import stage, write_inputs

MASKS = (0o077, 0o002)


@pytest.fixture
def umask() -> Iterator[None]:
    """The one before comes back."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def train_under(tasks: dict[int, Train]) -> None:
    with process_group() as device:
        for mask, task in tasks.items():
            os.umask(mask)
            train(task, device, StopFlag())


def test_permissions_follow_the_umask(tmp_path: Path, umask: None) -> None:
    inputs = write_inputs(tmp_path)
    text, model = tmp_path / "text.jsonl", inputs["model"]
    tasks = {mask: stage(inputs, tmp_path / f"{mask:03o}" / "run", steps=1, saving=Saving(every=1)) for mask in MASKS}
    run_ranks(1, train_under, tasks)
    for mask, task in tasks.items():
        os.umask(mask)
        out = task.out.parent
        train_tokenizer(Tokenizer(input=(text,), vocab_size=400, out=out / "tokenizer"))
        init(Init(method="random", source=model, tokenizer=out / "tokenizer", out=out / "model"))
        convert(Convert(model=task.out, out=out / "converted"))
        data = Data(input=(text,), tokenizer=model, sequence_length=64, workers=1, out=out / "data")
        prepare(Data(**(vars(data) | {"only": "read"})))
        prepare(Data(**(vars(data) | {"only": "1/1"})))
        assert list(out.glob("data.clpds-work/chunk-*.npz"))  # which jobs of other users may have to read
        for path in out.rglob("*"):
            wanted = (0o777 if path.is_dir() else 0o666) & ~mask
            assert path.stat().st_mode & 0o777 == wanted, (path, oct(path.stat().st_mode))
