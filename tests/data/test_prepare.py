"""`clpds data`: the same bytes whatever the workers and the interruptions, and a clean held-out split."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertConfig

from clpds import provenance, recipe
from clpds.data import read, tokenise
from clpds.data.blocks import IGNORED, open_blocks
from clpds.data.prepare import prepare
from clpds.data.tokenise import unfinished
from clpds.errors import UserError
from tests.data.test_read import KINDS, write
from tests.tiny import text, tiny_tokenizer

DOCUMENTS = list(text("de", 120))


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> recipe.Data:
    """German chapters, some thirty chunks."""
    monkeypatch.setattr(read, "BATCH_BYTES", 20_000)
    tiny_tokenizer("byte_bpe").save_pretrained(tmp_path / "tokenizer")
    return recipe.Data(
        input=(write(tmp_path, "jsonl", DOCUMENTS),),
        tokenizer=tmp_path / "tokenizer",
        sequence_length=128,
        validation_fraction=0.1,
        workers=1,
        out=tmp_path / "out",
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def decoded(folder: Path, split: str) -> list[str]:
    """The documents that the blocks of a split hold; of train the last is cut."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    data = open_blocks(folder, split)
    batch = data.batch(range(len(data)))
    ids = batch.input_ids.flatten()
    if split == "validation":
        ids = ids[: (batch.labels[-1] != IGNORED).nonzero().max() + 1 + (len(data) - 1) * data.sequence_length]
    return tokenizer.decode(ids).replace("</s>", "").split("<s>")[1:]


def test_all_text_comes_back_in_order_and_once(step: recipe.Data) -> None:
    prepare(step)
    train, validation = decoded(step.out, "train"), decoded(step.out, "validation")
    held_out = [raw for raw in DOCUMENTS if tokenise.is_held_out(raw.encode(), 0, 0.1)]
    rest = [raw for raw in DOCUMENTS if raw not in held_out]
    assert validation == held_out
    assert train[:-1] == rest[:-1]
    assert rest[-1].startswith(train[-1])
    assert len(rest[-1]) - len(train[-1]) < 128 * 10


def test_bytes_are_the_same_for_any_number_of_workers(step: recipe.Data, tmp_path: Path) -> None:
    for workers in (1, 3):
        prepare(replace(step, workers=workers, out=tmp_path / f"out{workers}"))
    assert tree(tmp_path / "out1") == tree(tmp_path / "out3")
    assert not list(tmp_path.glob("*.work"))
    assert not list(tmp_path.glob("*.partial"))


def test_bytes_of_the_blocks_are_the_same_for_any_input_format(step: recipe.Data, tmp_path: Path) -> None:
    trees = []
    texts = [verse for chapter in DOCUMENTS[:5] for verse in chapter.split("\n")]
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        path = write(tmp_path / kind, kind, texts)
        prepare(replace(step, input=(path,), out=tmp_path / kind / "out"))
        trees.append(tree(tmp_path / kind / "out"))
        trees[-1].pop("provenance.json")
    assert all(one == trees[0] for one in trees)


def test_datasets_opens_the_result_memory_mapped(step: recipe.Data) -> None:
    prepare(step)
    for split in ("train", "validation"):
        dataset = datasets.load_from_disk(step.out / split)
        assert [Path(file["filename"]).parent for file in dataset.cache_files] == [step.out / split]
        assert dataset.split == split
        data = open_blocks(step.out, split)
        assert dataset[7]["input_ids"] == data.batch([7]).input_ids[0].tolist()
        assert sum(dataset["predicted_bytes"]) == data.predicted_bytes(range(len(data)))
        assert dataset.features["input_ids"].feature.dtype == "uint16"


def test_the_folder_says_what_it_is(step: recipe.Data, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(step)
    assert sorted(path.name for path in step.out.iterdir()) == ["provenance.json", "tokenizer", "train", "validation"]
    assert provenance.verify(step.out) == []
    record = provenance.read(step.out)
    assert record is not None
    splits = record["splits"]
    assert splits["train"]["documents"] + splits["validation"]["documents"] == len(DOCUMENTS)
    assert sum(split["bytes"] for split in splits.values()) == sum(len(raw.encode()) for raw in DOCUMENTS)
    tokens = sum(len(ids) + 2 for ids in tiny_tokenizer("byte_bpe")(DOCUMENTS)["input_ids"])
    assert sum(split["tokens"] for split in splits.values()) == tokens
    assert splits["train"]["blocks"] == splits["train"]["tokens"] // 128
    assert splits["validation"]["blocks"] == -(-splits["validation"]["tokens"] // 128)
    assert f"{splits['train']['tokens']:,}" in capsys.readouterr().out


def test_duplicates_fall_on_one_side(step: recipe.Data, tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", [*DOCUMENTS, *reversed(DOCUMENTS)])
    prepare(replace(step, input=(path,), validation_fraction=0.5))
    train, validation = decoded(step.out, "train"), decoded(step.out, "validation")
    assert not set(train) & set(validation)
    assert len(validation) == 2 * len(set(validation))
    assert 40 < len(set(validation)) < 80


def test_the_split_of_a_document_does_not_depend_on_the_others(step: recipe.Data, tmp_path: Path) -> None:
    prepare(step)
    few = write(tmp_path, "txt", [DOCUMENTS[0].split("\n")[0]])
    chosen = write(tmp_path, "json", DOCUMENTS[40:])
    prepare(replace(step, input=(few, chosen), out=tmp_path / "fewer"))
    assert set(decoded(tmp_path / "fewer", "validation")) == set(decoded(step.out, "validation")) & set(DOCUMENTS[40:])
    prepare(replace(step, seed=1, out=tmp_path / "reseeded"))
    assert decoded(tmp_path / "reseeded", "validation") != decoded(step.out, "validation")


def test_a_document_that_the_tokenizer_finds_nothing_in_is_left_out(step: recipe.Data, tmp_path: Path) -> None:
    tiny_tokenizer("wordpiece").save_pretrained(tmp_path / "wordpiece")
    path = write(tmp_path, "txt", ["\u200e", "Gott sprach"])
    changes = {"input": (path,), "tokenizer": tmp_path / "wordpiece", "sequence_length": 4}
    prepare(replace(step, **changes, validation_fraction=1.0))
    record = provenance.read(step.out)
    assert record is not None
    assert record["splits"]["validation"]["documents"] == 1


def test_all_or_nothing_held_out(step: recipe.Data, tmp_path: Path) -> None:
    for fraction, split, other in ((0.0, "train", "validation"), (1.0, "validation", "train")):
        out = tmp_path / split
        prepare(replace(step, validation_fraction=fraction, out=out))
        assert len(decoded(out, split)) == len(DOCUMENTS)
        assert not (out / other).exists()


class Watch:
    """Notes the chunks that are tokenised, and interrupts before the next after ``stop``, as Ctrl-C does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.original = tokenise.tokenise_chunk
        self.numbers: list[int] = []
        self.stop: int | None = None
        monkeypatch.setattr(tokenise, "tokenise_chunk", self)

    def __call__(self, work: tokenise.Work, number: int) -> None:
        if self.stop == len(self.numbers):
            raise KeyboardInterrupt
        self.original(work, number)
        self.numbers.append(number)

    def interrupt(self, step: recipe.Data, stop: int) -> None:
        self.numbers, self.stop = [], stop
        with pytest.raises(KeyboardInterrupt):
            prepare(step)
        assert not step.out.exists()
        self.numbers, self.stop = [], None


def test_an_interrupted_command_goes_on_where_it_stopped(
    step: recipe.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(step)
    whole = replace(step, out=tmp_path / "again")
    watch = Watch(monkeypatch)
    watch.interrupt(whole, 10)
    (tmp_path / "again.work" / "chunk-000010.partial").write_bytes(b"half")
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
    assert "out.work cannot be continued (other parameters, other inputs): starting afresh\n" in capsys.readouterr().err
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
    work = tmp_path / "killed.work"
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


def test_what_a_models_config_says_of_its_tokenizer_is_not_lost(step: recipe.Data, tmp_path: Path) -> None:
    """An older BERT: a list of words, and a config.json that tells what kind of tokenizer it is for."""
    model = tmp_path / "model"
    model.mkdir()
    words = sorted(tiny_tokenizer("wordpiece").get_vocab().items(), key=lambda item: item[1])
    (model / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words), encoding="utf-8")
    BertConfig().save_pretrained(model)
    (model / "model.safetensors").write_bytes(b"weights")
    prepare(replace(step, tokenizer=model))
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (model, step.out / "tokenizer"))
    assert before(DOCUMENTS[0])["input_ids"] == after(DOCUMENTS[0])["input_ids"]
    assert before.special_tokens_map == after.special_tokens_map
    assert (step.out / "tokenizer" / "tokenizer.json").is_file()
    assert not (step.out / "tokenizer" / "model.safetensors").exists()


def test_ids_beyond_two_bytes_and_a_tokenizer_that_cuts_and_pads(step: recipe.Data, tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, **{f"w{id}": id for id in range(1, 70_000)}}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.enable_truncation(3)
    backend.enable_padding(length=6)
    (tmp_path / "large").mkdir()
    backend.save(str(tmp_path / "large" / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w1"}
    (tmp_path / "large" / "tokenizer_config.json").write_text(json.dumps(config))
    path = write(tmp_path, "txt", ["w65535 w65536 w69999"] * 9)
    changes = {"input": (path,), "tokenizer": tmp_path / "large", "sequence_length": 4, "validation_fraction": 0.0}
    prepare(replace(step, **changes))
    data = open_blocks(step.out, "train")
    assert data.batch(range(len(data))).input_ids.tolist() == [[65535, 65536, 69999, 1]] * 9


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"input": (Path("missing.txt"),)}, r"missing\.txt does not exist"),
        ({"tokenizer": Path("missing")}, "missing does not exist"),
        ({"validation_fraction": 1.5}, r"validation_fraction 1\.5 is not between 0 and 1"),
        ({"sequence_length": 1}, "sequence_length 1 leaves nothing to predict"),
        ({"workers": 0}, "workers 0: give 1 at least"),
        ({"text_key": "content"}, r"record 1 of .*a\.jsonl has no 'content'; pass --text-key with one of: url, text"),
        ({"validation_fraction": 1e-9}, r"leaves none of the 120 documents for the validation split"),
        ({"validation_fraction": 1 - 1e-9}, r"leaves none of the 120 documents for the train split"),
        ({"sequence_length": 10**6}, r"train split has [\d,]+ tokens, less than one block of 1,000,000"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    changes: dict[str, object], complaint: str, step: recipe.Data, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=complaint) as raised:
        prepare(replace(step, **changes))
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == before


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
    chunks = len(tokenise.open_work(tmp_path / "shares.work").files())
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
    assert not (tmp_path / "shares.work").exists()


def test_two_jobs_at_the_same_chunks_do_not_hurt_each_other(step: recipe.Data, tmp_path: Path) -> None:
    prepare(step)
    whole = replace(step, out=tmp_path / "jobs")
    prepare(replace(whole, only="read"))
    work = tmp_path / "jobs.work"
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
    with pytest.raises(UserError, match=r"out\.work .* run --only read first"):
        prepare(replace(step, only="1/2"))
    prepare(replace(step, only="read"))
    prepare(replace(step, only="1/2"))
    work = tree(tmp_path / "out.work")
    with pytest.raises(UserError, match=r"out\.work .* run --only read first"):
        prepare(replace(step, only="2/2", seed=1))
    with pytest.raises(UserError, match="less than one block"):
        prepare(replace(step, sequence_length=10**6))
    assert tree(tmp_path / "out.work").items() >= work.items()


def test_a_folder_that_exists_is_kept_unless_told(step: recipe.Data, tmp_path: Path) -> None:
    step.out.mkdir()
    (step.out / "mine").touch()
    with pytest.raises(UserError, match="out exists"):
        prepare(step)
    assert (step.out / "mine").exists()
    prepare(replace(step, overwrite=True))
    assert not (step.out / "mine").exists()
    assert len(open_blocks(step.out, "train")) > 0


def test_a_disk_too_small_is_noticed_before(step: recipe.Data, tmp_path: Path) -> None:
    # A Parquet file, as one that is not checked is then refused at once.
    sparse = tmp_path / "sparse.parquet"
    with sparse.open("wb") as file:
        os.truncate(file.fileno(), 2**43)
    with pytest.raises(UserError, match=r"out needs 79\.16 TB"):
        prepare(replace(step, input=(sparse,)))
    assert not list(tmp_path.glob("out*"))
