"""`clpds data` interrupted, killed and cut into shares: the same bytes, and no chunk made twice."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from clpds import recipe
from clpds.data import read, tokenise
from clpds.data.prepare import prepare
from clpds.data.tokenise import unfinished
from clpds.errors import UserError
from tests.data.preparing import DOCUMENTS, Watch, decoded, tree
from tests.data.test_read import write
from tests.tiny import text, tiny_tokenizer


def test_an_interrupted_command_goes_on_where_it_stopped(
    step: recipe.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(step)
    whole = replace(step, out=tmp_path / "again")
    watch = Watch(monkeypatch)
    watch.interrupt(whole, 10)
    (tmp_path / "again.clpds-work" / "chunk-000010.partial").write_bytes(b"half")
    monkeypatch.setattr(read, "BATCH_BYTES", 10**9)  # the chunks stay those of the first attempt
    prepare(replace(whole, sequence_length=64, out=tmp_path / "again"))  # of which chunks know nothing
    assert watch.numbers[0] == 10
    assert watch.numbers == list(range(10, len(watch.numbers) + 10))
    assert decoded(tmp_path / "again", "validation") == decoded(step.out, "validation")
    monkeypatch.setattr(read, "BATCH_BYTES", 20_000)
    watch.interrupt(replace(whole, overwrite=True, out=tmp_path / "third"), 3)
    prepare(replace(whole, out=tmp_path / "third"))
    assert tree(tmp_path / "third") == tree(step.out)


@pytest.mark.parametrize("change", ["seed", "input", "tokenizer", "text_key"])
def test_chunks_of_another_command_are_not_used(
    change: str,
    step: recipe.Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    watch = Watch(monkeypatch)
    watch.interrupt(step, 10)
    if change == "seed":
        step = replace(step, seed=1)
    elif change == "input":
        write(tmp_path, "jsonl", list(text("en", 120)))
    elif change == "text_key":
        write(tmp_path, "jsonl", DOCUMENTS, key="content")
        step = replace(step, text_key="content")
    else:
        tiny_tokenizer("unigram").save_pretrained(tmp_path / "tokenizer")
    prepare(step)
    assert watch.numbers[0] == 0
    assert (
        "out.clpds-work cannot be continued (other parameters, other inputs): starting afresh\n"
        in capsys.readouterr().err
    )
    prepare(replace(step, out=tmp_path / "fresh"))
    assert tree(step.out) == tree(tmp_path / "fresh")


def test_a_killed_command_leaves_no_process_and_can_be_continued(step: recipe.Data, tmp_path: Path) -> None:
    documents = list(text("de", 500))
    step = replace(step, input=(write(tmp_path, "json", documents),))
    arguments = {"input": step.input[0], "tokenizer": step.tokenizer, "out": tmp_path / "killed", "workers": 2}
    arguments |= {"sequence-length": 128, "validation-fraction": 0.1}
    options = [str(part) for key, value in arguments.items() for part in (f"--{key}", value)]
    program = (
        "import sys; from clpds.data import read; from clpds.cli import main; read.BATCH_BYTES = 5000; "
        f"sys.argv = {['clpds', 'data', *options]!r}; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    work = tmp_path / "killed.clpds-work"
    while not (chunks := list(work.glob("chunk-*.npz"))):
        assert process.poll() is None
        time.sleep(0.001)
    family = descendants(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < deadline, "workers outlive the command"
        time.sleep(0.05)
    before = {file: file.stat().st_ino for file in work.glob("chunk-*.npz")}
    assert len(chunks) <= len(before) < len(tokenise.open_work(work).files())
    tokenise.tokenise(work, unfinished(work), 1)
    assert {file: file.stat().st_ino for file in before} == before
    prepare(replace(step, out=tmp_path / "killed"))
    made = decoded(tmp_path / "killed", "validation") + decoded(tmp_path / "killed", "train")[:-1]
    assert len(made) == len(documents) - 1
    assert set(made) < set(documents)


def descendants(pid: int) -> list[int]:
    """Process ids of the children of ``pid``, their children and so on."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def test_a_mistyped_command_does_not_cost_the_chunks_of_the_right_one(
    step: recipe.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    watch.interrupt(step, 10)
    for wrong in ({"input": (Path("missing.txt"),)}, {"tokenizer": Path("missing")}, {"workers": 0}):
        with pytest.raises(UserError):
            prepare(replace(step, **wrong))
    prepare(step)
    assert watch.numbers[0] == 10


@pytest.mark.parametrize("shares", [("2/3", "3/3", "1/3"), ("3/3", "1/3"), ("2/2",)])
def test_shares_in_any_order_give_the_bytes_of_one_command(
    shares: tuple[str, ...], step: recipe.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(step)
    watch = Watch(monkeypatch)
    whole = replace(step, out=tmp_path / "shares")
    prepare(replace(whole, only="read"))
    chunks = len(tokenise.open_work(tmp_path / "shares.clpds-work").files())
    assert watch.numbers == []
    for share in shares:
        before = len(watch.numbers)
        prepare(replace(whole, only=share))
        part, parts = map(int, share.split("/"))
        assert watch.numbers[before:] == list(range(part - 1, chunks, parts))
        assert not whole.out.exists()
    prepare(whole)
    assert sorted(watch.numbers) == list(range(chunks))  # each once
    assert tree(whole.out) == tree(step.out)
    assert not (tmp_path / "shares.clpds-work").exists()


def test_two_jobs_at_the_same_chunks_do_not_hurt_each_other(step: recipe.Data, tmp_path: Path) -> None:
    prepare(step)
    whole = replace(step, out=tmp_path / "jobs")
    prepare(replace(whole, only="read"))
    work = tmp_path / "jobs.clpds-work"
    program = f"from clpds.data.tokenise import *; tokenise(Path({str(work)!r}), range({len(unfinished(work))}), 1)"
    jobs = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    assert not unfinished(work)
    assert not list(work.glob("*.partial"))
    prepare(whole)
    assert tree(whole.out) == tree(step.out)


def test_a_share_of_what_is_done_is_done(step: recipe.Data, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(step)
    for only in ("read", "3/8"):
        prepare(replace(step, only=only))
        assert "out is finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="out exists"):
        prepare(replace(step, only="3/8", sequence_length=64))


@pytest.mark.parametrize("only", ["0/3", "4/3", "3", "reading", "-1/3", "1/3/3", ""])
def test_what_is_no_share(only: str, step: recipe.Data, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="is neither read nor K/N"):
        prepare(replace(step, only=only))
    assert sorted(tmp_path.iterdir()) == before


def test_a_share_that_fails_leaves_the_others_work(step: recipe.Data, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out\.clpds-work .* run --only read first"):
        prepare(replace(step, only="1/2"))
    prepare(replace(step, only="read"))
    prepare(replace(step, only="1/2"))
    work = tree(tmp_path / "out.clpds-work")
    with pytest.raises(UserError, match=r"out\.clpds-work .* run --only read first"):
        prepare(replace(step, only="2/2", seed=1))
    with pytest.raises(UserError, match="less than one block"):
        prepare(replace(step, sequence_length=10**6))
    assert tree(tmp_path / "out.clpds-work").items() >= work.items()
