"""Stages of every kind: a rank that is killed leaves no trace, and the plan has foretold their cost."""

import json
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from clpds.conversion.convert import convert
from clpds.data.prepare import prepare
from clpds.data.prepare_pairs import prepare_pairs
from clpds.data.samples import chapters
from clpds.errors import UserError
from clpds.manifest import hash_files
from clpds.planning.cost import Work
from clpds.planning.follow import sequence_length, stage_config
from clpds.planning.size import size_of
from clpds.recipe import Convert, Corpus, Data, Init, Pairs, Recipe, Saving, Train, Validation
from clpds.run_folder import saved_step
from clpds.training import loop
from clpds.training.group import process_group
from clpds.training.loop import train
from clpds.training.schedule import learning_rate
from clpds.training.stopping import stop_flag
from clpds.transfer.init import init
from clpds.vocabulary.tokenizer import load_tokenizer
from tests.ranks import run_ranks
from tests.tiny import save_model, tiny_model
from tests.training.stages import curve, read_metrics, run_stage, stage, write_inputs

OWN = {"masked": "mask_share", "minijoint": "mini_weight", "cdlm": "mask_share", "classification": "seed"}
NEW = ("*.embeddings.*", "*.trilayer.*", "cls.*")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What differs between the stages of the recipes. Models have dropout, some parameters are frozen."""
    folder = tmp_path_factory.mktemp("kill")
    bert = write_inputs(folder, shape="bert", family="wordpiece", length=48)["model"]
    trelm = save_model(folder / "trelm", tiny_model("trelm-bert", 600, pad_token_id=0), load_tokenizer(bert))
    init(Init(method="minijoint", source=bert, take=1, out=folder / "joint"))
    verses = [
        (english, german)
        for chapter in list(chapters("en"))[:3]
        for english, german in zip(chapters("en")[chapter], chapters("de")[chapter], strict=False)
    ]
    rows = [{"text": german, "label": german.startswith("Und")} for _, german in verses]
    for name, lines in {
        "english.txt": [english for english, _ in verses],
        "verses.tsv": [f"{english}\t{german}" for english, german in verses],
        "labelled.jsonl": [json.dumps(row) for row in rows],
    }.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    common: Any = {"tokenizer": bert, "sequence_length": 48, "validation_fraction": 0.3}
    prepare(Data(input=(folder / "english.txt",), out=folder / "english", workers=1, **common))
    prepare(Data(input=(folder / "labelled.jsonl",), label_key="label", out=folder / "labelled", **common))
    prepare_pairs(Pairs(parallel=(folder / "verses.tsv",), out=folder / "pairs", **common))
    german = {"german": Corpus(path=folder / "data")}
    english = {"english": Corpus(path=folder / "english", weight=0.7, language="source")}
    made = {
        "masked": {"model": trelm, "data": english | german, "trainable": NEW},
        "minijoint": {"model": folder / "joint", "data": german},
        "cdlm": {
            "model": trelm, "data": {"verses": Corpus(path=folder / "pairs")}, "trainable": (*NEW, "*.layer.[23].*")
        },
        "classification": {
            "model": bert, "data": {"task": Corpus(path=folder / "labelled")},
            "trainable": ("*.encoder.*", "*.pooler.*", "classifier.*"),
        },
    }  # fmt: skip
    return {name: changes | {"deepspeed": folder / "zero3.json"} for name, changes in made.items()}


def run_killed(task: Train) -> None:
    """The stage, but in its fourth step, with two of them saved, the second rank is killed."""

    def kill(stage: Train, step: int) -> float:
        if step == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return learning_rate(stage, step)

    loop.learning_rate = kill
    run_stage(task)


def go_on(task: Train, other: Train) -> str:
    """With what message ``other`` is refused to go on with the run; then the run goes on."""
    with stop_flag() as flag, process_group() as device:
        with pytest.raises(UserError) as refused:
            train(other, device, flag)
        train(task, device, flag)
        return str(refused.value)


def weights(task: Train) -> dict[str, tuple[int, str]]:
    """Sizes and hashes of the converted model's files of weights."""
    out = task.out.with_name(f"{task.out.name}-converted")
    convert(Convert(model=task.out, out=out))
    return hash_files(out.glob("*.safetensors"))


@pytest.fixture(scope="module", params=["masked", "minijoint", "cdlm", "classification"])
def whole(
    request: pytest.FixtureRequest, stages: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Train:
    """Six steps on two ranks without a break."""
    more = {"saving": Saving(every=2), "validation": Validation(every=3, blocks=4), "steps": 6}
    changes = stages[request.param]
    task = stage(changes, tmp_path_factory.mktemp("whole") / "run", objective=request.param, **more, **changes)
    run_ranks(2, run_stage, task)
    return task


def test_a_killed_rank_leaves_no_trace(whole: Train, tmp_path: Path) -> None:
    task = replace(whole, out=tmp_path / "killed")
    with pytest.raises(RuntimeError, match="rank 1 died"):
        run_ranks(2, run_killed, task)
    assert (saved_step(task.out), len(read_metrics(task.out))) == (2, 3)
    own = OWN[task.objective]
    other: dict[str, Any] = {own: 1}
    assert all(f"another {own}" in message for message in run_ranks(2, go_on, task, replace(task, **other)))
    for key in ("step", "loss", "grad_norm", "tokens", "lr"):
        assert curve(read_metrics(task.out), key) == curve(read_metrics(whole.out), key)
    assert weights(task) == weights(whole)


def test_the_plan_has_reckoned_with_its_cost(whole: Train) -> None:
    recipe = Recipe(Path("recipe.yaml"), {"train": whole})
    work = Work(size_of(stage_config(recipe, whole)), whole, sequence_length(recipe, whole))
    cost = work.size.flops(whole.trainable, work.length)
    lines = read_metrics(whole.out)
    predicted = [after - before for before, after in pairwise([0, *curve(lines, "tokens")])]
    assert curve(lines, "model_flops") == [cost.of(work.tokens / whole.steps, number) for number in predicted]
    # Blocks are reckoned as full, and special tokens as hidden like others; the pairs here fill half of theirs.
    assert 0.4 < sum(predicted) / work.predictions <= 1
