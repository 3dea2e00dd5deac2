"""Ranks of a real mpirun, and jobs with a share each, give the bytes of one process."""

import random
import re
import subprocess
import sys
import threading
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from clpds import recipe, sharing
from clpds.data import read, tokenise
from clpds.data.prepare import prepare
from clpds.errors import UserError
from clpds.sharing import see, share_out
from clpds.transfer.init import init
from launcher.rendezvous import mpi_world
from tests.data.test_read import write
from tests.launcher.test_rendezvous import MPIRUN, STEP, bare, needs_mpirun
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer

# The command line, with small chunks, and a note of the rank at each chunk and shard that it writes.
PROGRAM = """
import os, sys
from pathlib import Path
from clpds.cli import main
from clpds.data import read, tokenise
import clpds.checkpoint.write as write

RANK, notes = os.environ.get("OMPI_COMM_WORLD_RANK", "0"), Path(os.environ["NOTES"])
read.BATCH_BYTES = 20_000
of_chunk, of_shard, of_copy = tokenise.tokenise_chunk, write.write_safetensors, write.copy_safetensors

def note(what):
    with (notes / RANK).open("a") as file:
        file.write(f"{what}\\n")

def chunk(work, number):
    BREAK
    of_chunk(work, number)
    note(number)

def shard(file, tensors):
    note(file.name)
    return of_shard(file, tensors)

def copy(source, file):
    note(file.name)
    return of_copy(source, file)

tokenise.tokenise_chunk, write.write_safetensors, write.copy_safetensors = chunk, shard, copy
main()
"""


def mpirun(folder: Path, verb: str, options: dict[str, object], *, status: int = 0, breaking: str = "pass") -> str:
    """Run the command on two ranks and require its exit status; returns what they said on stderr."""
    words = [str(word) for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
    notes = folder / "notes"
    notes.mkdir()
    program = f"import sys; sys.argv = {['clpds', verb, *words]!r}\n" + PROGRAM.replace("BREAK", breaking)
    command, environment = [*MPIRUN, sys.executable, "-c", program], bare(NOTES=str(notes))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)
    assert done.returncode == status, done.stderr
    return done.stderr


def noted(folder: Path) -> list[list[str]]:
    """What each rank has written."""
    return [file.read_text().split() for file in sorted((folder / "notes").iterdir())]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if "error:" in line]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of `clpds data` for German chapters in some thirty chunks."""
    monkeypatch.setattr(read, "BATCH_BYTES", 20_000)
    tiny_tokenizer("byte_bpe").save_pretrained(tmp_path / "tokenizer")
    source = write(tmp_path, "jsonl", list(text("de", 120)))
    return {"input": source, "tokenizer": tmp_path / "tokenizer", "sequence_length": 128, "workers": 1}


def prepare_alone(data: dict[str, Any], out: Path) -> dict[str, bytes]:
    prepare(recipe.Data(**{**data, "input": (data["input"],), "out": out}))
    return tree(out)


@needs_mpirun
def test_ranks_share_the_chunks(data: dict[str, Any], tmp_path: Path) -> None:
    mpirun(tmp_path, "data", {**data, "out": tmp_path / "ranks"})
    shares = noted(tmp_path)
    assert len(shares) == 2
    assert abs(len(shares[0]) - len(shares[1])) <= 1
    numbers = sorted(map(int, chain(*shares)))
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 20
    assert tree(tmp_path / "ranks") == prepare_alone(data, tmp_path / "alone")


@needs_mpirun
def test_a_rank_that_dies_ends_all_and_its_chunks_are_not_lost(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = "if RANK == '1' and number > 12: raise RuntimeError('broken')"
    said = mpirun(tmp_path, "data", {**data, "out": tmp_path / "out"}, breaking=broken, status=1)
    assert said.count("RuntimeError: broken") == 1
    assert not (tmp_path / "out").exists()
    work = tmp_path / "out.clpds-work"
    before = set(map(int, chain(*noted(tmp_path))))
    assert before == set(range(len(tokenise.open_work(work).files()))) - set(tokenise.unfinished(work))
    assert before
    assert prepare_alone(data, tmp_path / "out") == prepare_alone(data, tmp_path / "alone")


@needs_mpirun
@pytest.mark.parametrize("wrong", ["text", "disk"])
def test_data_stops_on_all_ranks_with_one_line(wrong: str, data: dict[str, Any], tmp_path: Path) -> None:
    breaking = "pass"
    if wrong == "text":
        data["text_key"] = "content"
    else:
        breaking = "if RANK == '1': raise OSError(28, 'No space left on device')"
    said = mpirun(tmp_path, "data", {**data, "out": tmp_path / "out"}, status=2, breaking=breaking)
    (line,) = errors(said)
    assert line.startswith("clpds data: error: ")
    assert {"text": "pass --text-key with", "disk": "No space left on device (rank 1 on "}[wrong] in line
    assert "Traceback" not in said
    left = {path.name for path in tmp_path.glob("out*")}
    assert left == {"text": set(), "disk": {"out.clpds-work"}}[wrong]  # what is tokenised can be gone on with


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Any]:
    """Options of `clpds init` with a source in many shards; the head is in another one than the embedding."""
    english, german = tiny_tokenizer("byte_bpe", "en"), tiny_tokenizer("unigram", "de")
    source = tiny_model("llama", 640, tied=False, dtype=torch.bfloat16, num_hidden_layers=8)
    source.save_pretrained(tmp_path / "source", max_shard_size="30KB")
    english.save_pretrained(tmp_path / "source")
    save_model(tmp_path / "helper", tiny_model("gpt2", len(german), seed=1), german)
    return {"source": tmp_path / "source", "helper": tmp_path / "helper", "max_shard_size": "20KB", "dtype": "float32"}


@needs_mpirun
@pytest.mark.parametrize(
    ("more", "even"),
    [
        ({}, 0.7),
        # Most of the source's files stay as they are: there are six, of which one rank may have a third more.
        ({"dtype": None, "max_shard_size": "30KB"}, 0.6),
        ({"width": 64, "depth": 9}, 0.7),
        ({"method": "minimodel", "take": 6, "new_layers": 1, "helper": None}, 0.7),
    ],
)
def test_ranks_share_the_shards(more: dict[str, Any], even: float, models: dict[str, Any], tmp_path: Path) -> None:
    models |= more
    ranks, alone = tmp_path / "ranks", tmp_path / "alone"
    mpirun(tmp_path, "init", {**models, "out": ranks})
    init(recipe.Init(**models, out=alone))
    shares = noted(tmp_path)
    assert sorted(chain(*shares)) == sorted(file.name for file in alone.glob("*.safetensors"))
    assert len(shares) == 2
    bytes_written = [sum((ranks / shard).stat().st_size for shard in share) for share in shares]
    assert min(bytes_written) > even * max(bytes_written)
    assert tree(ranks) == tree(alone)


@needs_mpirun
@pytest.mark.parametrize("wrong", ["tensor", "size"])
def test_init_stops_on_all_ranks_with_one_line(wrong: str, models: dict[str, Any], tmp_path: Path) -> None:
    if wrong == "tensor":
        model = tiny_model("llama", 640, tied=False, dtype=torch.bfloat16, num_hidden_layers=8)
        with torch.no_grad():
            model.model.layers[7].mlp.up_proj.weight[0, 0] = torch.nan
        model.save_pretrained(tmp_path / "source", max_shard_size="30KB")
        expected = r"tensor model\.layers\.7\.mlp\.up_proj\.weight of .* holds NaN or infinity .* \(rank 1 on .*\)"
    else:
        models["max_shard_size"] = "large"
        expected = "max_shard_size 'large' is not a size such as 500MB or 5GB"
    said = mpirun(tmp_path, "init", {**models, "out": tmp_path / "out"}, status=2)
    (line,) = errors(said)
    assert re.fullmatch(f"clpds init: error: {expected}", line)
    assert not list(tmp_path.glob("out*"))


def test_tasks_that_mpi_knows_nothing_of_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_PROCID"):
        monkeypatch.setenv(name, STEP[name])
    with pytest.raises(UserError, match=r"SLURM_NTASKS=8, but no MPI: .* srun --mpi=pmix, .*--ntasks=1"):
        mpi_world()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert mpi_world() is None
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.delenv("SLURM_STEP_ID")  # in the batch script
    assert mpi_world() is None


def test_a_plain_command_does_not_start_mpi() -> None:
    code = "import sys; from clpds.sharing import shared\nwith shared() as world: print(world, 'mpi4py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=bare())
    assert done.stdout == "World(rank=0, size=1, communicator=None) False\n"


def test_a_file_of_another_rank_may_be_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = tmp_path / "late"
    timer = threading.Timer(0.3, late.touch)
    timer.start()
    see([late])
    assert late.exists()
    monkeypatch.setattr(sharing, "LATE", 0.1)
    with pytest.raises(UserError, match="never of another rank does not show here"):
        see([late, tmp_path / "never"])


def test_shares_are_fair_and_runs_of_neighbours() -> None:
    draw = random.Random(0)
    for _ in range(200):
        sizes = {f"{number:03d}": draw.randint(0, 100) for number in range(draw.randint(1, 60))}
        ranks = draw.randint(1, 8)
        first = {key for key in sizes if draw.random() < draw.choice([0, 0, 0.1, 0.5])}
        owners = share_out(sizes, ranks, first)
        assert owners.keys() == sizes.keys()
        assert all(owners[key] == 0 for key in first)
        rest = [owners[key] for key in sizes if key not in first]
        assert rest == sorted(rest)
        loads = [sum(size for key, size in sizes.items() if owners[key] == rank) for rank in range(ranks)]
        fair = max(sum(sizes.values()) / ranks, sum(sizes[key] for key in first))
        assert max(loads) <= fair + 100  # one shard more at most
