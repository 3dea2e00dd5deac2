"""Ranks of a real mpirun, and jobs with a share each, give the bytes of one process."""

import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from itertools import chain
from pathlib import Path

import pytest
import torch

from clpds import sharing
from clpds.errors import UserError
from clpds.sharing import see, share_out
from launcher.rendezvous import mpi_world
from tests.data.test_read import write
from tests.launcher.test_rendezvous import STEP, bare, needs_mpirun
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer

RANKS = 3
MPIRUN = ("mpirun", "-n", str(RANKS), "--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else []))
# The command line, with small chunks, and a note of the rank at each chunk and shard that it writes.
PROGRAM = """
import os, sys
from pathlib import Path
from clpds.cli import main
from clpds.data import read, tokenise
import clpds.checkpoint.write as write

RANK, notes = os.environ.get("OMPI_COMM_WORLD_RANK", "0"), Path(os.environ["NOTES"])
read.BATCH_BYTES = 20_000
of_chunk, of_shard = tokenise.tokenise_chunk, write.write_safetensors

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

tokenise.tokenise_chunk, write.write_safetensors = chunk, shard
main()
"""


def clpds(
    folder: Path,
    verb: str,
    *,
    status: int = 0,
    under: tuple[str, ...] = (),
    breaking: str = "pass",
    **options: object,
) -> str:
    """Run the command and require its exit status; returns what it said on stderr."""
    words = [str(word) for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
    notes = folder / "notes"
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir()
    program = f"import sys; sys.argv = {['clpds', verb, *words]!r}\n" + PROGRAM.replace("BREAK", breaking)
    command, environment = [*under, sys.executable, "-c", program], bare(NOTES=str(notes))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
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
def data(tmp_path: Path) -> dict[str, object]:
    """Options of `clpds data` for German chapters in some thirty chunks."""
    tiny_tokenizer("byte_bpe").save_pretrained(tmp_path / "tokenizer")
    source = write(tmp_path, "jsonl", list(text("de", 120)))
    options = {"input": source, "tokenizer": tmp_path / "tokenizer", "sequence_length": 128, "workers": 1}
    return {**options, "validation_fraction": 0.1}


@needs_mpirun
def test_ranks_share_the_chunks_and_one_process_goes_on_after_them(data: dict[str, object], tmp_path: Path) -> None:
    clpds(tmp_path, "data", **data, out=tmp_path / "alone")
    (chunks,) = noted(tmp_path)
    clpds(tmp_path, "data", **data, out=tmp_path / "ranks", under=MPIRUN)
    shares = noted(tmp_path)
    lengths = [len(share) for share in shares]
    assert len(lengths) == RANKS
    assert max(lengths) - min(lengths) <= 1
    assert sorted(chain(*shares)) == sorted(chunks)
    assert tree(tmp_path / "ranks") == tree(tmp_path / "alone")

    broken = "if RANK == '1' and number > 12: raise RuntimeError('broken')"
    since = time.monotonic()
    said = clpds(tmp_path, "data", **data, out=tmp_path / "broken", under=MPIRUN, breaking=broken, status=1)
    assert time.monotonic() - since < 60  # the others do not wait for it
    assert said.count("RuntimeError: broken") == 1
    assert not (tmp_path / "broken").exists()
    done = list(chain(*noted(tmp_path)))
    clpds(tmp_path, "data", **data, out=tmp_path / "broken")
    assert done
    assert set(done) | set(noted(tmp_path)[0]) == set(chunks)
    assert tree(tmp_path / "broken") == tree(tmp_path / "alone")


@needs_mpirun
@pytest.mark.parametrize("wrong", ["text", "disk"])
def test_bad_input_is_one_line_of_all_ranks(wrong: str, data: dict[str, object], tmp_path: Path) -> None:
    breaking = "pass"
    if wrong == "text":
        data["text_key"] = "content"
    else:
        breaking = "if RANK == '2': raise OSError(28, 'No space left on device')"
    before = set(tree(tmp_path))
    said = clpds(tmp_path, "data", **data, out=tmp_path / "out", under=MPIRUN, status=2, breaking=breaking)
    (line,) = errors(said)
    assert line.startswith("clpds data: error: ")
    assert {"text": "pass --text-key with", "disk": "No space left on device (rank 2 on "}[wrong] in line
    assert "Traceback" not in said
    left = {name for name in tree(tmp_path) if not name.startswith("notes")} - before
    assert {Path(name).parent for name in left} <= {Path("out.work"), Path("out.work/tokenizer")}
    assert bool(left) == (wrong == "disk")  # what is tokenised can be gone on with


@pytest.fixture
def models(tmp_path: Path) -> dict[str, object]:
    """Options of `clpds init` with a source in many shards; the head is in another one than the embedding."""
    english, german = tiny_tokenizer("byte_bpe", "en"), tiny_tokenizer("unigram", "de")
    source = tiny_model("llama", 640, tied=False, dtype=torch.bfloat16, num_hidden_layers=4)
    source.save_pretrained(tmp_path / "source", max_shard_size="30KB")
    english.save_pretrained(tmp_path / "source")
    save_model(tmp_path / "helper", tiny_model("gpt2", len(german), seed=1), german)
    return {"source": tmp_path / "source", "helper": tmp_path / "helper", "max_shard_size": "20KB", "dtype": "float32"}


@needs_mpirun
def test_ranks_share_the_shards(models: dict[str, object], tmp_path: Path) -> None:
    clpds(tmp_path, "init", **models, out=tmp_path / "alone")
    (shards,) = noted(tmp_path)
    clpds(tmp_path, "init", **models, out=tmp_path / "ranks", under=MPIRUN)
    shares = noted(tmp_path)
    assert len(shares) == RANKS
    assert sorted(chain(*shares)) == shards
    sizes = [sum((tmp_path / "ranks" / shard).stat().st_size for shard in share) for share in shares]
    assert max(sizes[1:]) < 2 * min(sizes[1:])
    assert tree(tmp_path / "ranks") == tree(tmp_path / "alone")


@needs_mpirun
@pytest.mark.parametrize("wrong", ["tensor", "size"])
def test_init_stops_on_all_ranks_with_one_line(wrong: str, models: dict[str, object], tmp_path: Path) -> None:
    if wrong == "tensor":
        model = tiny_model("llama", 640, tied=False, dtype=torch.bfloat16, num_hidden_layers=4)
        with torch.no_grad():
            model.model.layers[3].mlp.up_proj.weight[0, 0] = torch.nan
        model.save_pretrained(tmp_path / "source", max_shard_size="30KB")
    else:
        models["max_shard_size"] = "large"
    said = clpds(tmp_path, "init", **models, out=tmp_path / "out", under=MPIRUN, status=2)
    (line,) = errors(said)
    tensor = "tensor model.layers.3.mlp.up_proj.weight of .* holds NaN or infinity as float32 \\(rank 2 on .*\\)"
    assert re.fullmatch(
        "clpds init: error: " + {"tensor": tensor, "size": "max_shard_size 'large' is not .*"}[wrong], line
    )
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
    assert "mpi4py" not in sys.modules


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
        fixed = sum(sizes[key] for key in first)
        fair = max(sum(sizes.values()) / ranks, (sum(sizes.values()) - fixed) / max(1, ranks - 1), fixed)
        assert max(loads) <= fair + 100  # one shard more at most
