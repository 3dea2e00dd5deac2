"""Every verb, over every kind of thing that can lie where it writes: replaced if it is ours alone, else untouched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clpds.manifest import hash_files, write_manifest
from clpds.output import write_text
from clpds.training.saving import _delete
from tests.bad_inputs.inputs import TRAIN
from tests.bad_inputs.row import Row
from tests.bad_inputs.test_table import ALONE, check
from tests.untouched.commands import FILES, FOLDERS
from tests.untouched.conftest import Clpds
from tests.untouched.tree import REFUSED, a_file, dangling, home, make_ours, neighbours, run, tree, write

GROWING = {
    "compare-init": "compare-init r.yaml --data de.txt --methods random --blocks 2 --sequence-length 16 --out {out}",
    "reproduce": "reproduce clp --size toy --out {out}",
}


def refuses(clpds: Clpds, words: str, folder: Path, says: str = "") -> None:
    before = tree(folder)
    status, err = clpds(words)
    check(Row("", words, says), status, err)
    assert tree(folder) == before, words


@pytest.mark.parametrize("verb", FOLDERS)
def test_a_folder_that_is_not_ours_alone_is_untouched(verb: str, folder: Path, clpds: Clpds) -> None:
    for number, build in enumerate(REFUSED):
        out = folder / f"scratch{number}" / "out"
        out.parent.mkdir()
        build(out)
        for flag in ("", " --overwrite"):
            refuses(clpds, FOLDERS[verb].words.format(out=out) + flag, folder, str(out))


@pytest.mark.parametrize("verb", FOLDERS)
def test_what_is_ours_is_replaced_and_names_beside_it_are_not_touched(verb: str, folder: Path, clpds: Clpds) -> None:
    out = folder / "scratch" / "out"
    make_ours(out)
    (out / "config.json").write_text("damaged")
    neighbours(out)
    before = tree(folder)
    words = FOLDERS[verb].words.format(out=out)
    refuses(clpds, words, folder, "pass --overwrite")
    status, err = clpds(f"{words} --overwrite")
    assert status == 0, err
    new = {name for name in tree(folder) if name.startswith("scratch/out/")}
    assert {name: state for name, state in tree(folder).items() if name not in new} == {
        name: state for name, state in before.items() if not name.startswith("scratch/out/")
    }
    assert "scratch/out/provenance.json" in new
    assert "scratch/out/deep" not in new


@pytest.mark.parametrize("verb", FILES)
def test_a_file_of_the_users_is_not_overwritten(verb: str, folder: Path, clpds: Clpds) -> None:
    words = FILES[verb].words
    for number, build in enumerate((home, run, dangling)):
        (folder / f"scratch{number}").mkdir()
        build(folder / f"scratch{number}" / "out.png")
        for flag in ("", " --overwrite"):
            refuses(clpds, words.format(out=f"scratch{number}/out.png") + flag, folder, "out.png")
    out = folder / "scratch" / "out.png"
    write(out, "thesis")
    neighbours(out)
    before = tree(folder)
    refuses(clpds, words.format(out=out), folder, "pass --overwrite")
    assert clpds(words.format(out=out) + " --overwrite")[0] == 0
    after = tree(folder)
    assert after.pop("scratch/out.png") != before.pop("scratch/out.png")
    assert after == before
    again = clpds(words.format(out=out))[0]
    assert again == (2 if verb == "dictionary" else 0)  # a list of words cannot say who wrote it
    out.unlink()
    assert clpds(words.format(out="scratch/deep/new.png"))[0] == 0


@pytest.mark.parametrize("verb", {**FOLDERS, **FILES})
def test_an_output_is_no_input_nor_around_nor_in_one(verb: str, folder: Path, clpds: Clpds) -> None:
    command = (FOLDERS | FILES)[verb]
    (folder / "outer").symlink_to(folder)
    for name in command.inputs:
        outs = [name, f"outer/{name}", f"./{name}", ".", "outer"]
        if (folder / name).is_dir():
            outs += [
                f"{name}/new",
                f"outer/{name}/new",
                *(path.relative_to(folder) for path in (folder / name).iterdir()),
            ]
        else:
            os.link(folder / name, folder / f"{name}.second")
            outs.append(f"{name}.second")
        (folder / f"{name}.link").symlink_to(name)
        outs.append(f"{name}.link")
        for out in outs:
            refuses(clpds, f"{command.words.format(out=out)} --overwrite", folder)


@pytest.mark.parametrize("verb", GROWING)
def test_a_folder_that_grows_is_not_begun_in_one_of_the_users(verb: str, folder: Path, clpds: Clpds) -> None:
    for number, build in enumerate((home, make_ours, run, a_file, dangling)):
        out = folder / f"scratch{number}" / "out"
        out.parent.mkdir()
        build(out)
        refuses(clpds, GROWING[verb].format(out=out), folder, str(out))
    refuses(clpds, GROWING["compare-init"].format(out="english"), folder, "english, which is read")


def test_a_training_does_not_begin_in_a_folder_of_the_users(
    folder: Path, clpds: Clpds, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "cpu.json").write_text('{"zero_optimization": {"stage": 3}, "torch_adam": true}')
    (folder / "r.yaml").write_text(yaml.safe_dump({"steps": {"train": TRAIN}}))
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "_exit", sys.exit)
    for name in ("metrics.jsonl", "model/weights", "checkpoints/step-00000001/x", "initial/x", "state.json"):
        write(folder / "run" / name)
        write(folder / "run" / "notes.txt")
        refuses(clpds, "train r.yaml", folder, "run is no training run, but has ")
        shutil.rmtree(folder / "run")


def test_a_folder_mounted_twice_is_one_folder(folder: Path, clpds: Clpds) -> None:
    """Needs root: as /home and /export/home on a cluster."""
    (folder / "again").mkdir()
    if subprocess.run(["mount", "--bind", str(folder / "bert"), str(folder / "again")], capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        for out in ("again", "again/new", "bert/new"):
            refuses(clpds, f"{FOLDERS['pairs'].words.format(out=out)} --overwrite", folder, "which is read")
            refuses(clpds, f"{FOLDERS['pairs'].words.replace('bert', 'again').format(out=out)} --overwrite", folder)
    finally:
        subprocess.run(["umount", str(folder / "again")], check=True)


def test_links_and_names_of_the_users_in_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "important")
    (tmp_path / "state.json.clpds-partial").symlink_to("important")
    with pytest.raises(OSError, match="symbolic links"):
        write_text(tmp_path / "state.json", "{}")
    for name in ("step-00000001", "step-00000002", "step-00000003"):
        write(tmp_path / name / "weights")
        write_manifest(tmp_path / name, hash_files([tmp_path / name / "weights"]))
    write(tmp_path / "step-00000001" / "notes.txt")
    (tmp_path / "step-00000002").rename(tmp_path / "archive")
    (tmp_path / "step-00000002").symlink_to("archive")
    before = tree(tmp_path)
    for name in ("step-00000001", "step-00000002", "step-00000003"):
        _delete(tmp_path / name)
    assert tree(tmp_path) == {name: state for name, state in before.items() if not name.startswith("step-00000003")}
    assert capsys.readouterr().err.count(" is kept: ") == 2


def test_a_tilde_is_no_folder(folder: Path, clpds: Clpds) -> None:
    refuses(clpds, FOLDERS["convert"].words.format(out="'~/out'"), folder, "only a shell knows ~")


def test_scripts_are_not_put_into_an_input(folder: Path, clpds: Clpds) -> None:
    (folder / "p.yaml").write_text("{train: {}, cpu: {}}")
    (folder / "slurm").symlink_to("english")
    refuses(clpds, "submit r.yaml --profile p.yaml --dry-run", folder, "english, which is read")
