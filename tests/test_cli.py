"""The command line: quick and light until a verb is called, one line for bad input, nothing else on the screen."""

import gc
import os
import subprocess
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from clpds import __version__
from clpds.cli import VERBS, main, quick_imports, room
from tests.tiny import save_model, tiny_model


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Run ``clpds ARGUMENTS`` in this process and return the exit status."""
    monkeypatch.setattr(sys, "argv", ["clpds", *arguments])
    try:
        main()
    except SystemExit as exit_:
        return exit_.code
    return 0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", tiny_model("gpt2", 97))


def test_help_of_every_verb_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom clpds.cli import VERBS, main\n"
        "for arguments in [['--help'], *[[verb, '--help'] for verb in VERBS], ['--version']]:\n"
        "    sys.argv = ['clpds', *arguments]\n"
        "    try: main()\n"
        "    except SystemExit as exit_: assert exit_.code == 0, arguments\n"
        "heavy = {'torch', 'transformers', 'datasets', 'deepspeed', 'numpy', 'pyarrow', 'safetensors', 'tokenizers'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f"usage: clpds {verb} [-h]" in done.stdout
    assert done.stdout.endswith(f"clpds {__version__}\n")
    assert " None" not in done.stdout
    assert "{None}" not in done.stdout


@pytest.mark.parametrize(
    ("verb", "usage"),
    [
        ("convert", "[CONVERT OPTIONS] MODEL OUT"),
        ("eval", "[EVAL OPTIONS] MODEL"),
        ("train", "RECIPE [KEY=VALUE ...]"),
        ("run", "RECIPE [KEY=VALUE ...]"),
        ("inspect", "PATH"),
    ],
)
def test_positional_arguments_say_what_they_are(
    verb: str, usage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, verb, "--help") == 0
    first_line = " ".join(capsys.readouterr().out.split("\n\n")[0].split())
    assert usage in first_line


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_room(verb: str) -> None:
    assert callable(room(verb))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["convert"],
        ["convert", "a"],
        ["convert", "a", "b", "--dtype", "int3"],
        ["eval", "m", "--no-such"],
    ],
)
def test_wrong_options_exit_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, *arguments) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["data", "--input", "a", "--tokenizer", "t", "--out", "o", "--sequence-length", "0"],
            "'sequence_length': Input",
        ),
        (["data", "--tokenizer", "t", "--out", "o", "--sequence-length", "9", "--input"], "'input': Tuple should have"),
        (["run", "no.yaml", "--ranks", "0"], "'ranks': Input should be greater than 0 (got 0)"),
        (["init", "--source", "m", "--out", "o"], "error: method clp needs helper"),
        (["run", "no.yaml"], "no.yaml does not exist"),
        (["convert", "no/such/model", "out"], "no/such/model"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"clpds {arguments[0]}: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["recipe.yaml", "a.b=1", "c.d.e=x", "--ranks", "3"],
        ["recipe.yaml", "a.b=1", "--ranks", "3", "c.d.e=x"],
        ["--ranks", "3", "recipe.yaml", "a.b=1", "--step", "s", "c.d.e=x"],
    ],
)
def test_overrides_may_stand_anywhere_behind_the_recipe(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("clpds.walk.run_recipe", seen.append)
    assert call(monkeypatch, "run", *words) == 0
    assert (seen[0].recipe, seen[0].overrides, seen[0].ranks) == (Path("recipe.yaml"), ("a.b=1", "c.d.e=x"), 3)


def test_an_interrupted_verb_says_so(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clpds.conversion.convert.convert", interrupted)
    assert call(monkeypatch, "convert", str(model), str(model.parent / "out")) == 130
    assert capsys.readouterr().err.startswith("clpds convert: interrupted")


def test_libraries_say_nothing_that_a_user_cannot_act_on(model: Path, tmp_path: Path) -> None:
    """DeepSpeed warns of the accelerator it chose, transformers of anything, tqdm draws bars."""
    script = (
        "import sys\nfrom clpds.cli import quiet_libraries\nquiet_libraries()\n"
        "import deepspeed, torch, transformers\n"
        "from deepspeed.accelerator import get_accelerator\nget_accelerator()\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "model.save_pretrained(sys.argv[2])\n"
        "model.generate(torch.tensor([[3, 4]]), max_new_tokens=2)\n"
        "from tqdm.auto import tqdm\nlist(tqdm([1]))\n"
    )
    loud = ("TRANSFORMERS_", "DS_", "HF_", "TQDM_", "PYTHONWARNINGS", "TORCH_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(loud)}
    command = [sys.executable, "-c", script, str(model), str(tmp_path / "copy")]
    done = subprocess.run(command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("error", [None, ModuleNotFoundError])
def test_after_quick_imports_garbage_is_collected_again(error: type[Exception] | None) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    before = weakref.ref(Cycle())  # of a step before: a model, in `clpds run`
    with nullcontext() if error is None else pytest.raises(error), quick_imports():
        assert before() is None
        if error:
            raise error
    after = weakref.ref(Cycle())
    assert after() is not None
    gc.collect()
    assert after() is None
    assert gc.isenabled()
