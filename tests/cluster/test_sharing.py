"""`clpds data` on two nodes of a real Slurm: ranks of srun --mpi=pmix, and an array of jobs with a share each."""

import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.data.test_read import write
from tests.tiny import text, tiny_tokenizer

# Small chunks, so that there is something to share.
PROGRAM = "from clpds.data import read; from clpds.cli import main; read.BATCH_BYTES = 20_000; main()"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """`clpds data` of German chapters, but for --out."""
    tiny_tokenizer("byte_bpe").save_pretrained(tmp_path / "tokenizer")
    source = write(tmp_path, "jsonl", list(text("de", 120)))
    options = ["--tokenizer", str(tmp_path / "tokenizer"), "--sequence-length", "128", "--workers", "1"]
    return [sys.executable, "-c", PROGRAM, "data", "--input", str(source), *options]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_ranks_of_srun_and_an_array_give_the_bytes_of_one_process(
    cluster: Cluster, command: list[str], tmp_path: Path
) -> None:
    one = [*command, "--out", str(tmp_path / "one")]
    cluster.command("srun", "--ntasks=1", *one)
    cluster.command("srun", "--nodes=2", "--ntasks=3", "--mpi=pmix", *command, "--out", str(tmp_path / "ranks"))
    assert tree(tmp_path / "ranks") == tree(tmp_path / "one")

    shares = [*command, "--out", str(tmp_path / "array")]
    script = tmp_path / "script"
    script.write_text(f'#!/bin/bash\nexec {" ".join(map(repr, shares))} "$@"\n')
    script.chmod(0o755)
    cluster.command(str(script), "--only", "read")
    array = tmp_path / "array.sbatch"
    array.write_text(f"#!/bin/bash\nexec {script} --only $SLURM_ARRAY_TASK_ID/3\n")
    cluster.command("sbatch", "--wait", "--array=1-3", "--cpus-per-task=1", str(array), cwd=tmp_path)
    assert not (tmp_path / "array").exists()
    cluster.command(str(script))
    assert tree(tmp_path / "array") == tree(tmp_path / "one")


def test_bad_input_is_one_line_of_all_tasks(cluster: Cluster, command: list[str], tmp_path: Path) -> None:
    wrong = [*command, "--text-key", "content", "--out", str(tmp_path / "out")]
    with pytest.raises(RuntimeError) as caught:
        cluster.command("srun", "--nodes=2", "--ntasks=2", "--mpi=pmix", *wrong)
    assert str(caught.value).count("clpds data: error: record 1 of ") == 1
    assert not list(tmp_path.glob("out*"))


def test_tasks_without_mpi_are_refused(cluster: Cluster, command: list[str], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="SLURM_NTASKS=2, but no MPI"):
        cluster.command("srun", "--nodes=2", "--ntasks=2", *command, "--out", str(tmp_path / "out"))
    assert not list(tmp_path.glob("out*"))
