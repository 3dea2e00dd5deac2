"""What ends a command from outside: no right to read, no memory, nobody who reads what is printed, killed workers."""

import errno
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers

from clpds.data.prepare import prepare
from clpds.errors import UserError, shortened
from clpds.recipe import Data
from tests.bad_inputs.inputs import copy_of, write_good
from tests.bad_inputs.row import Row
from tests.bad_inputs.test_table import check, listing
from tests.conftest import Mount
from tests.test_cli import call
from tests.tiny import tiny_tokenizer

DATA = "data --sequence-length 16 --out out --tokenizer tokenizer --input"
MEMORY = "memory is short"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_good(folder)
    run = folder / "old" / "checkpoints" / "step-00000001"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text('{"files": {}}')
    (run / "trainer.json").write_text('{"step": 1, "world_size": 1}')
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy_of(good, tmp_path, monkeypatch)


READERS = [
    ("inspect model", "model/model.safetensors"),
    ("inspect sharded", "sharded/model.safetensors.index.json"),
    ("convert model out", "model/config.json"),
    ("convert model out", "model/model.safetensors"),
    ("eval model --data data", "model/generation_config.json"),
    ("eval model --data data", "data/validation/state.json"),
    ("eval model --data data", "data/provenance.json"),
    (f"{DATA} de.txt --workers 1", "de.txt"),
    ("tokenizer --vocab-size 300 --out out --input de.txt", "de.txt"),
    ("plan r.yaml --gpu cpu", "model/config.json"),
    ("plan r.yaml --gpu cpu", "r.yaml"),
    ("status old", "old/state.json"),
    ("inspect old", "old/stage.json"),
    ("report --out out.png --evals a eval.json", "eval.json"),
    ("dictionary --out out --parallel de.txt en.txt", "en.txt"),
    ("init --source english --tokenizer tokenizer --method wechsel --source-embeddings en.vec"
     " --target-embeddings de.vec --dictionary d.txt --out out", "en.vec"),
]  # fmt: skip


REFUSED: dict[str, int] = {}
HOOKED: list[bool] = []


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if REFUSED and event == "open" and isinstance(arguments[0], str):
        code = REFUSED.get(os.path.realpath(arguments[0]))
        if code is not None:
            raise OSError(code, os.strerror(code), arguments[0])


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize(("command", "name"), READERS)
def test_what_the_system_refuses_is_not_called_damaged(
    command: str, name: str, code: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python's own calls of open are refused for the file: the tests may run as root, whom nothing is refused."""
    (folder / "old" / "state.json").write_text('{"state": "training"}')
    (folder / "d.txt").write_text("und\tand\n")
    if not HOOKED:
        sys.addaudithook(refuse)  # it stays
        HOOKED.append(True)
    REFUSED[os.path.realpath(folder / name)] = code
    try:
        status = call(monkeypatch, *shlex.split(command))
    finally:
        REFUSED.clear()
    err = capfd.readouterr().err
    check(Row("", command, os.strerror(code)), status, err)
    assert Path(name).name in err
    assert "damaged" not in err
    assert "again" not in err
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (f"{DATA} de.txt --workers 1", "tokenizer/tokenizer.json"),
        ("inspect model --token Gott --source english", "english"),
        ("convert sharded out", "sharded"),
        ("eval model --data data", "data/validation"),
    ],
)
def test_files_that_rust_opens_and_folders(command: str, name: str, folder: Path) -> None:
    """Without its capabilities root is an owner like others, and the file may not be read."""
    drop = "setpriv --inh-caps=-all --bounding-set=-all"
    if in_a_process(f"{drop} true", folder).returncode:
        pytest.skip("capabilities cannot be dropped here")
    (folder / name).chmod(0)
    done = in_a_process(f"{drop} clpds {command}", folder)
    (folder / name).chmod(0o755)
    check(Row("", command, "Permission denied"), done.returncode, done.stderr)
    assert name in done.stderr
    assert "damaged" not in done.stderr


def test_status_says_why_checkpoints_cannot_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor does a training go on from an older one, or from the start."""
    from clpds.training.resuming import find_checkpoint

    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        """Root may read all; so the refusal is raised in the place of the system's."""
        if str(path).endswith("manifest.json"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert call(monkeypatch, "status", "old") == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "manifest.json cannot be read: Permission denied" in shown
    assert "none yet" not in shown
    with pytest.raises(UserError, match="Permission denied"):
        find_checkpoint(folder / "old", {})


@pytest.mark.parametrize("name", ["pipe.txt", "socket.txt", "/dev/zero", "/dev/fd/0"])
@pytest.mark.parametrize(
    "command",
    [
        f"{DATA} {{0}}",
        "tokenizer --vocab-size 300 --out out --input {0}",
        "eval model --data {0}",
        "eval model --data data --out {0}",
        "dictionary --out out --parallel {0}",
        "run {0}",
        "inspect {0}",
        "plan r.yaml --gpu cpu train.model={0}",
        "init --source english --tokenizer tokenizer --text {0} --method focus --out out",
    ],
)
def test_pipes_devices_and_sockets_are_refused(
    command: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.txt")
    read, write = os.pipe()
    stdin = os.dup(0)
    os.dup2(read, 0)
    before = listing(folder)
    try:
        status = call(monkeypatch, *shlex.split(command.format(name)))
    finally:
        os.dup2(stdin, 0)
        for descriptor in (read, write, stdin):
            os.close(descriptor)
    check(Row("", command, f"{name} is a "), status, capfd.readouterr().err)
    assert listing(folder) == before


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a.b", "a=b", "a b", "a\tb", "\x1b[2J", "a\u2028b"])
def test_step_names_are_refused_where_they_are_read(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "r.yaml").write_text(json.dumps({"steps": {name: {"verb": "inspect", "path": "model"}}}))
    for command in ("run r.yaml", "plan r.yaml --gpu cpu", "submit r.yaml --profile p.yaml --dry-run"):
        (folder / "p.yaml").write_text("{train: {}, cpu: {}}")
        status = call(monkeypatch, *command.split())
        check(Row("", command, "cannot be a step's name"), status, capfd.readouterr().err)


def test_paths_that_are_not_utf8(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On the command line they are refused; names inside an input are written as JSON can say them."""
    odd = os.fsdecode(b"a\xff")
    shutil.copyfile("de.txt", f"{odd}.txt")
    for command in (f"{DATA} {odd}.txt", f"convert model {odd}", f"status {odd}", f"eval model --data {odd}.txt"):
        status = call(monkeypatch, *command.split())
        check(Row("", command, "is not UTF-8; rename it"), status, capfd.readouterr().err)
    (folder / "model" / odd).write_text("x")
    assert call(monkeypatch, "convert", "model", "out") == 0
    assert odd in json.loads((folder / "out" / "provenance.json").read_text())["inputs"]["model"]["files"]


def test_a_long_error_keeps_the_file_and_the_advice() -> None:
    name = "/".join(["folder" * 30] * 9) + "/config.json"
    text = shortened(f"{name} is damaged ({'x' * 5000}): {'because of this ' * 80}; download it again", 470)
    assert len(text) <= 470
    assert "/config.json is damaged" in text
    assert text.endswith("; download it again")
    assert shortened("short", 470) == "short"


def in_a_process(command: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Under a shell, as a user redirects and limits it."""
    line = command.replace("clpds", f"{shlex.quote(sys.executable)} -m clpds", 1)
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("clpds --help | head -0; exit ${PIPESTATUS[0]}", 141),
        ("clpds --help >&-", 141),
        ("clpds inspect data | head -0; exit ${PIPESTATUS[0]}", 141),
        ("clpds inspect data >&-", 141),
        ("clpds inspect data >&- 2>&- <&-", 141),
        ("clpds status gone 2>&1 | head -0; exit ${PIPESTATUS[0]}", 2),
    ],
)
def test_nobody_reads_what_is_printed(command: str, status: int, folder: Path) -> None:
    done = in_a_process(command, folder)
    assert (done.returncode, done.stderr) == (status, "")


def test_work_is_done_though_nobody_reads(folder: Path) -> None:
    done = in_a_process(f"clpds {DATA} de.txt --workers 1 >&-", folder)
    assert (done.returncode, done.stderr) == (141, "")
    assert (folder / "out" / "provenance.json").is_file()


def test_a_full_disk_under_stdout_is_told(folder: Path) -> None:
    done = in_a_process("clpds inspect data > /dev/full", folder)
    assert done.returncode == 2
    assert "stdout: No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_evaluation_is_printed_before_a_disk_is_found_full(
    folder: Path, disk: tuple[Path, Mount], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, mount = disk
    mount("size=4k")
    (path / "full").write_bytes(bytes(4096))
    status = call(monkeypatch, *f"eval model --data data --blocks 1 --json --out {path}/e.json".split())
    out, err = capfd.readouterr()
    check(Row("", "eval", f"{path}/e.json"), status, err)
    assert "No space left on device" in err
    assert json.loads(out)["loss"] > 0
    assert [file.name for file in path.iterdir()] == ["full"]


@pytest.mark.parametrize("columns", ["1", "3", "0", "-1", "abc", "15", "99999999999", ""])
def test_any_width_of_the_screen(columns: str, tmp_path: Path) -> None:
    done = in_a_process("clpds status --help", tmp_path, env=os.environ | {"COLUMNS": columns})
    assert done.returncode == 0
    assert "Folder of the run" in " ".join(done.stdout.replace("│", " ").split())
    assert len(done.stdout) < 10_000


@pytest.mark.parametrize("megabytes", [600, 1500])
def test_want_of_memory_is_one_line(megabytes: int, folder: Path) -> None:
    """Wherever it strikes: while libraries are imported, when threads start, at a tensor; or there is enough."""
    done = in_a_process(f"ulimit -v {megabytes * 1000}; clpds convert model out", folder)
    if done.returncode:
        check(Row("", "convert", MEMORY), done.returncode, done.stderr)
    assert (folder / "out").exists() == (done.returncode == 0)


def give_up(folder: Path) -> None:
    """A tokenizer whose regex tries too long at a certain word."""
    tokenizer = tiny_tokenizer("byte_bpe")
    split = pre_tokenizers.Split(Regex("(x+x+)+y"), behavior="isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    with (folder / "de.txt").open("a") as file:
        file.write("x" * 5000 + "\n")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_regex_that_gives_up(
    workers: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    give_up(folder)
    monkeypatch.setattr("clpds.data.read.BATCH_BYTES", 2000)
    status = call(monkeypatch, *f"{DATA} de.txt --workers {workers}".split())
    check(Row("", "data", "the tokenizer gave up on a text (Onig"), status, capfd.readouterr().err)
    assert not (folder / "out").exists()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def named(name: str) -> Callable[[int], bool]:
    return lambda pid: name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("victim", ["worker", "forkserver"])
def test_a_killed_worker_is_told_and_the_same_command_goes_on(victim: str, folder: Path) -> None:
    lines = (folder / "de.txt").read_text()
    (folder / "de.txt").write_text(lines * 2400)
    command = [sys.executable, "-m", "clpds", *f"{DATA} de.txt --workers 2 --validation-fraction 0".split()]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        servers = [pid for pid in children(process.pid) if named("forkserver")(pid)]
        workers = [pid for server in servers for pid in children(server)]
        if len(workers) == 2 and list(folder.glob("*work*/chunk-*.npz")):
            os.kill(workers[0] if victim == "worker" else servers[0], signal.SIGKILL)
            break
        time.sleep(0.01)
    _, err = process.communicate(timeout=100)
    if victim == "worker" or process.returncode:
        check(
            Row("", "data", "was killed, probably because memory was short"),
            process.returncode,
            err.splitlines(keepends=True)[-1],
        )
        before = {file.name for file in folder.glob("*work*/chunk-*.npz")}
        assert before
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
    whole = Data(
        input=(folder / "de.txt",), tokenizer=folder / "tokenizer", sequence_length=16, workers=1,
        validation_fraction=0, out=folder / "alone",
    )  # fmt: skip
    prepare(whole)
    files = [file.relative_to(folder / "alone") for file in (folder / "alone").rglob("*.arrow")]
    assert files
    assert all((folder / "out" / file).read_bytes() == (folder / "alone" / file).read_bytes() for file in files)
