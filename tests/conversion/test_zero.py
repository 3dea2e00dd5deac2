"""ZeRO checkpoints of every stage give the engine's float32 master weights; damaged ones are refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clpds.checkpoint import anatomy
from clpds.checkpoint.safetensors import finite_chunks
from clpds.conversion.zero import open_zero, spanned
from clpds.errors import UserError
from tests.conversion.conftest import Saves
from tests.conversion.saves import CASES, Case, fresh, train_and_save
from tests.ranks import run_ranks

STAGE_1, STAGE_2, STAGE_3 = CASES[1], CASES[2], CASES[4]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tensors_are_the_masters_bit_for_bit(case: Case, saves: Saves) -> None:
    held = saves.held[case.name]
    checkpoint = open_zero(saves.folder(case), saves.root / case.name)
    wanted = anatomy(checkpoint.config)
    assert checkpoint.tensors.keys() == wanted.shapes.keys()
    assert case.tied == bool(wanted.tied)
    expected = held.masters | {name: held.buffers[name] for name in wanted.shapes if name in held.buffers}
    for name, lazy in checkpoint.tensors.items():
        assert lazy.dtype == torch.float32
        assert torch.equal(lazy.load(), expected[name]), name


@pytest.mark.parametrize("case", [STAGE_1, STAGE_3], ids=lambda case: case.name)
def test_rows_are_those_of_the_whole(case: Case, saves: Saves) -> None:
    for name, lazy in open_zero(saves.folder(case), saves.root / case.name).tensors.items():
        whole, size = lazy.load(), lazy.shape[0]
        for start, stop in ((0, 1), (size // 2, size // 2 + 2), (size - 1, size), (0, size)):
            assert lazy.rows is not None
            assert torch.equal(lazy.rows(start, stop), whole[start:stop]), (name, start, stop)


class Evil:
    """What pickle runs when it loads this: touch the file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["model", "optim"])
def test_code_in_a_file_is_refused_and_does_not_run(
    kind: str, zipped: bool, copy_of: Callable[[Case], Path], tmp_path: Path
) -> None:
    folder = copy_of(STAGE_3)
    marker = tmp_path / "ran"
    file = next(folder.glob(f"*pp_rank_0_*{kind}_states.pt"))
    state = torch.load(file, weights_only=False)
    torch.save({**state, "evil": Evil(marker)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=re.escape(str(file))):
        open_zero(folder, folder.parent)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists()  # the pickle was a working one


@pytest.mark.parametrize("kind", ["model", "optim"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_rank_is_named(kind: str, rank: int, copy_of: Callable[[Case], Path]) -> None:
    folder = copy_of(STAGE_3)
    lost = next(folder.glob(f"*pp_rank_{rank}_*{kind}_states.pt"))
    lost.unlink()
    with pytest.raises(UserError, match=f"{lost} is missing"):
        open_zero(folder, folder.parent)


def test_the_lost_model_states_of_stage_2_are_named(copy_of: Callable[[Case], Path]) -> None:
    folder = copy_of(STAGE_2)
    (folder / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(UserError, match=r"mp_rank_00_model_states.pt is missing"):
        open_zero(folder, folder.parent)


@pytest.mark.parametrize("case", [STAGE_2, STAGE_3], ids=lambda case: case.name)
def test_a_rank_left_over_from_a_larger_run_is_named(case: Case, copy_of: Callable[[Case], Path]) -> None:
    folder = copy_of(case)
    stale = folder / "zero_pp_rank_2_mp_rank_00_optim_states.pt"
    stale.write_bytes((folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt").read_bytes())
    with pytest.raises(UserError, match=f"{stale} is left over"):
        open_zero(folder, folder.parent)


def test_a_rank_of_another_precision_beside_it_is_named(copy_of: Callable[[Case], Path]) -> None:
    folder = copy_of(STAGE_3)
    own = folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    (folder / f"bf16_{own.name}").write_bytes(own.read_bytes())
    with pytest.raises(UserError, match=r"pp_rank_1_.* and .*pp_rank_1_.* are of one rank"):
        open_zero(folder, folder.parent)


def test_files_of_two_runs_are_refused(copy_of: Callable[[Case], Path], saves: Saves) -> None:
    folder = copy_of(STAGE_3)
    name = "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    (folder / name).write_bytes((saves.folder(STAGE_2) / name).read_bytes())
    with pytest.raises(UserError, match=f"{name} and zero_pp_rank_0.* are of different runs"):
        open_zero(folder, folder.parent)


@pytest.mark.parametrize("case", [STAGE_2, STAGE_3], ids=lambda case: case.name)
def test_a_save_of_another_model_is_refused(case: Case, copy_of: Callable[[Case], Path], saves: Saves) -> None:
    """Model states that fit the config, master weights that are another model's."""
    other = {STAGE_2: CASES[0], STAGE_3: CASES[5]}[case]
    folder = copy_of(case)
    for file in folder.glob("*_optim_states.pt"):
        source = next(saves.folder(other).glob(f"*{file.name}"))
        file.write_bytes(source.read_bytes())
    with pytest.raises(UserError, match=r"not of one save|_optim_states.pt .*the model needs"):
        open_zero(folder, folder.parent)


def test_a_rank_of_a_run_with_another_number_of_ranks_is_named(copy_of: Callable[[Case], Path]) -> None:
    folder = copy_of(STAGE_3)
    file = folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    state = torch.load(file, weights_only=False)
    state["optimizer_state_dict"]["partition_count"] = 4
    torch.save(state, file)
    with pytest.raises(UserError, match=f"{file.name} and zero_pp_rank_0.* are of different runs"):
        open_zero(folder, folder.parent)


def test_too_few_master_weights_are_refused(copy_of: Callable[[Case], Path]) -> None:
    folder = copy_of(STAGE_2)
    file = folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    state = torch.load(file, weights_only=False)
    flats = state["optimizer_state_dict"]["single_partition_of_fp32_groups"]
    flats[0] = flats[0][:-1].clone()
    torch.save(state, file)
    with pytest.raises(UserError, match=r"hold .* elements of group 0, the model needs"):
        open_zero(folder, folder.parent)


@pytest.mark.parametrize("kind", ["model", "optim"])
def test_a_truncated_file_is_named(kind: str, copy_of: Callable[[Case], Path]) -> None:
    folder = copy_of(STAGE_3)
    file = next(folder.glob(f"*pp_rank_1_*{kind}_states.pt"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{file} is truncated"):
        open_zero(folder, folder.parent)


def test_a_config_of_another_model_names_the_tensors(saves: Saves) -> None:
    with pytest.raises(UserError, match=r"missing for GPT2LMHeadModel: transformer.wpe.weight"):
        open_zero(saves.folder(STAGE_1), saves.root / STAGE_3.name)


def test_a_run_without_zero_is_refused(copy_of: Callable[[Case], Path]) -> None:
    folder = copy_of(STAGE_2)
    for file in folder.glob("*_optim_states.pt"):
        file.unlink()
    with pytest.raises(UserError, match="expected a checkpoint of ZeRO stage 1, 2 or 3"):
        open_zero(folder, folder.parent)


def test_an_unknown_stage_is_refused(copy_of: Callable[[Case], Path]) -> None:
    folder = copy_of(STAGE_2)
    file = folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": {"state": {}, "zero_stage": 4}}, file)
    with pytest.raises(UserError, match=f"{file} holds no master weights of ZeRO stage 1, 2 or 3"):
        open_zero(folder, folder.parent)


def test_memory_does_not_follow_the_model(tmp_path: Path) -> None:
    """What was read of the mapped files does not stay in the process."""
    wide = Case(3, "float32", "gpt2", tied=True, changes=(("n_embd", 512), ("n_head", 2)))
    run_ranks(2, train_and_save, tmp_path, (wide,))
    folder = tmp_path / wide.name / "global_step2"
    fresh(wide).config.save_pretrained(folder)
    checkpoint = open_zero(folder, folder)
    for lazy in checkpoint.tensors.values():
        lazy.load()
    assert _resident(folder) < checkpoint.nbytes / 10


def test_memory_does_not_keep_what_lies_around_small_parts(tmp_path: Path) -> None:
    """The system maps more than is looked at: of eight ranks' parts of 8,192 numbers a fifth stayed."""
    torch.save({"flat": torch.ones(2**24)}, tmp_path / "states.pt")
    flat = torch.load(tmp_path / "states.pt", mmap=True)["flat"]
    rank, part = len(flat) // 8, 2**13
    for start in range(0, rank, part):
        spans = [(flat, rank * number + start, rank * number + start + part) for number in range(8)]
        for chunk in finite_chunks("weight", spanned(spans, (8, part), tmp_path)):
            assert chunk.sum() == 8 * part
    assert _resident(tmp_path) < flat.nbytes / 50


def _resident(folder: Path) -> int:
    """Bytes of this process's memory that are mapped from files of ``folder``."""
    size, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            size += int(line.split()[1]) * 1024
    return size
