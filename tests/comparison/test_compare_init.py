"""compare-init on tiny models: what may run, what is measured, what is kept."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clpds.cli import CompareInit
from clpds.comparison.candidates import candidates
from clpds.comparison.compare_init import compare_init
from clpds.errors import UserError
from clpds.evaluation.evaluate import evaluate
from clpds.recipe import Eval, Init, Recipe, checked
from clpds.transfer.init import init
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer

BASE = Init(source=Path("s"), tokenizer=Path("t"), method="mean", extend=True, out=Path("o"))


def of(*steps: Init) -> Recipe:
    return Recipe(Path("recipe.yaml"), {f"step {number}": step for number, step in enumerate(steps)})


def test_the_inputs_decide_what_is_tried() -> None:
    baselines = {"random", "overlap", "mean", "subpieces"}
    assert candidates(of(BASE)).keys() == baselines
    clp = replace(BASE, method="clp", helper=Path("h"), neighbours=7)
    assert candidates(of(BASE, clp)).keys() == baselines | {"clp", "clp auto", "omp"}
    focus = replace(BASE, method="focus", text=(Path("x"),), seed=3)
    found = candidates(of(clp, focus))
    assert found["focus"] == replace(focus, helper=Path("h"))
    assert found["clp auto"] == replace(clp, weighting="auto")
    assert found["random"] == replace(BASE, method="random", helper=Path("h"))
    for step in found.values():
        assert checked(Init, vars(step)) == step  # no option that its method does not use
    words = replace(BASE, method="wechsel", source_embeddings=Path("s.vec"), target_embeddings=Path("t.vec"))
    for step in (words, replace(words, dictionary=Path("d"))):
        found = candidates(of(BASE, step))
        assert found.keys() == baselines | {"wechsel", "wechsel copied"}
        assert found["wechsel"] == step
    assert list(candidates(of(clp, focus), ["omp", "mean"])) == ["omp", "mean"]


def test_recipes_that_name_nothing_to_compare() -> None:
    other = replace(BASE, source=Path("other"))
    for recipe, message in ((of(), "has no init step"), (of(BASE, other), "keep one source")):
        with pytest.raises(UserError, match=message):
            candidates(recipe)
    with pytest.raises(UserError, match=r"method focus needs text, which no init step of recipe\.yaml has"):
        candidates(of(BASE), ["focus"])


def test_the_numbers_are_those_of_init_and_eval_and_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    english, german = tiny_tokenizer("byte_bpe", "en"), tiny_tokenizer("unigram", "de")
    source = save_model(tmp_path / "source", tiny_model("llama", len(english)), english)
    german.save_pretrained(tmp_path / "german")
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("\n".join(text("de", 2)), encoding="utf-8")
    step = Init(method="overlap", source=source, tokenizer=tmp_path / "german", out=tmp_path / "out")
    recipe = tmp_path / "recipe.yaml"
    keys = f"verb: init, method: overlap, source: {source}, tokenizer: {step.tokenizer}, out: {step.out}"
    recipe.write_text(f"steps: {{only: {{{keys}}}}}", encoding="utf-8")
    options = CompareInit(recipe=recipe, data=held_out, sequence_length=64, methods=("overlap",), out=tmp_path / "all")

    compare_init(options)
    (result,) = json.loads((options.out / "compare.json").read_text())
    init(step)
    evaluate(Eval(model=step.out, data=held_out, sequence_length=64, out=tmp_path / "eval.json"))
    expected = json.loads((tmp_path / "eval.json").read_text())
    assert (result["loss"], result["bits_per_byte"]) == (expected["loss"], expected["bits_per_byte"])
    assert 0 < result["coverage"] < 1
    assert result["peak_bytes"] > 10**8
    assert (options.out / "compare.png").stat().st_size > 1000
    assert not (options.out / "overlap").exists()  # no model is written

    file = options.out / "overlap.json"
    file.write_text(json.dumps({**result, "bits_per_byte": 99.0}))
    capsys.readouterr()
    compare_init(replace(options, methods=("overlap", "mean")))
    screen = capsys.readouterr().out
    assert "99.0000" in screen
    assert screen.index("mean") < screen.index("overlap")
    compare_init(replace(options, sequence_length=32))
    assert json.loads(file.read_text())["bits_per_byte"] < 99


def die_in_mean(label: str, *rest: Any) -> None:
    """In the child, which knows the true function."""
    from clpds.comparison.compare_init import _measure

    if label == "mean":
        os.kill(os.getpid(), signal.SIGKILL)
    _measure(label, *rest)


def test_a_method_that_died_is_named_and_the_exit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    english, german = tiny_tokenizer("byte_bpe", "en"), tiny_tokenizer("unigram", "de")
    source = save_model(tmp_path / "source", tiny_model("llama", len(english)), english)
    german.save_pretrained(tmp_path / "german")
    recipe, held_out, out = tmp_path / "recipe.yaml", tmp_path / "held_out.txt", tmp_path / "all"
    keys = f"verb: init, method: mean, source: {source}, tokenizer: {tmp_path / 'german'}, out: o"
    recipe.write_text(f"steps: {{only: {{{keys}}}}}", encoding="utf-8")
    held_out.write_text("Im Anfang schuf Gott Himmel und Erde\n" * 9, encoding="utf-8")
    monkeypatch.setattr("clpds.comparison.compare_init._measure", die_in_mean)
    options = CompareInit(recipe=recipe, data=held_out, sequence_length=32, methods=("overlap", "mean"), out=out)
    with pytest.raises(UserError, match=r"1 of 2 methods failed, .*: mean: killed by signal 9, perhaps for memory"):
        compare_init(options)
    results = {result["method"]: result for result in json.loads((out / "compare.json").read_text())}
    assert results["overlap"]["bits_per_byte"] > 0
    assert "killed" in results["mean"]["error"]


def test_an_error_of_every_method_is_the_error(tmp_path: Path) -> None:
    english = tiny_tokenizer("byte_bpe", "en")
    source = save_model(tmp_path / "source", tiny_model("llama", len(english) - 1), english)
    recipe = tmp_path / "recipe.yaml"
    keys = f"verb: init, method: mean, source: {source}, tokenizer: {source}, out: o"
    recipe.write_text(f"steps: {{only: {{{keys}}}}}", encoding="utf-8")
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("Im Anfang", encoding="utf-8")
    with pytest.raises(UserError, match="the two do not belong together"):
        compare_init(CompareInit(recipe=recipe, data=held_out, methods=("mean",), out=tmp_path / "all"))
