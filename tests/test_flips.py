"""One bit of a file, or its end, is lost: what hashes were written for says so and names the file.

CLPDS_FLIPS=1000 tries so many places in each kind of folder instead of a few.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clpds import manifest, provenance
from clpds.errors import UserError
from clpds.inspection import inspect
from clpds.recipe import Init, Inspect, Saving, Tokenizer
from clpds.transfer.init import init
from clpds.vocabulary.train import train_tokenizer
from tests.ranks import run_ranks
from tests.training.stages import run_stage, stage, write_inputs

COUNT = int(os.environ.get("CLPDS_FLIPS", "25"))
FLIPS = settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
RECORDS = (manifest.FILE, provenance.FILE)  # they hold the hashes of the others
# What a run says of itself as it goes, and the files of TensorBoard: nobody hashes them, and nothing resumes from them.
UNHASHED = ("stage.json", "state.json", "lock", "metrics.jsonl", "latest", "events.out")
KINDS = ("run", "model", "data", "tokenizer")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind."""
    folder = tmp_path_factory.mktemp("made")
    inputs = write_inputs(folder)
    inputs["model"] = inputs["model"].rename(folder / "source")
    init(Init(method="random", source=inputs["model"], tokenizer=inputs["model"], out=folder / "model"))
    train_tokenizer(Tokenizer(input=(folder / "text.jsonl",), vocab_size=400, out=folder / "tokenizer"))
    run_ranks(2, run_stage, stage(inputs, folder / "run", steps=2, saving=Saving(every=1)))
    return folder


@contextmanager
def damaged(file: Path, place: float, bit: int | None) -> Iterator[None]:
    """The file with one bit changed, or cut at the place, a share of its length."""
    content = file.read_bytes()
    first = min(int(place * len(content)), len(content) - 1)
    if bit is None:
        file.write_bytes(content[:first])
    else:
        file.write_bytes(content[:first] + bytes([content[first] ^ 1 << bit]) + content[first + 1 :])
    try:
        yield
    finally:
        file.write_bytes(content)


FILE, PLACE, BIT = st.integers(0, 10**6), st.floats(0, 1, exclude_max=True), st.none() | st.integers(0, 7)


def files(folder: Path, *, records: bool) -> list[Path]:
    """Those with hashes on record, or the records themselves and what has no hash."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    return [path for path in found if path.name.startswith((*RECORDS, *UNHASHED)) == records]


@pytest.mark.parametrize("kind", KINDS)
@FLIPS
@given(number=FILE, place=PLACE, bit=BIT)
def test_what_was_hashed_is_not_passed_off_as_whole(
    made: Path, kind: str, number: int, place: float, bit: int | None
) -> None:
    choice = files(made / kind, records=False)
    file = choice[number % len(choice)]
    with damaged(file, place, bit), pytest.raises(UserError, match=file.name):
        inspect(Inspect(path=made / kind, verify=True))


@pytest.mark.parametrize("kind", KINDS)
@FLIPS
@given(number=FILE, place=PLACE, bit=BIT)
def test_what_has_no_hash_is_read_or_refused(made: Path, kind: str, number: int, place: float, bit: int | None) -> None:
    choice = files(made / kind, records=True)
    file = choice[number % len(choice)]
    with damaged(file, place, bit), suppress(UserError):
        inspect(Inspect(path=made / kind, verify=True))
