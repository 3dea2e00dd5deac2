"""Recipes: what is read is what was written, and every mistake is one line with file and key."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clpds.errors import UserError
from clpds.recipe import USED_BY, VERBS, Corpus, Init, InitMethod, Optimizer, Step, Train, load_recipe, verb_of
from clpds.recipe.read import STEP

TRAIN = """steps:
  de:
    verb: train
    model: m
    data: {bible: {path: x}}
    out: o
    steps: 10
    micro_batch: 1
    global_batch: 2
"""


def load(folder: Path, text: str, *overrides: str, default_step: str | None = None) -> dict[str, Step]:
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return load_recipe(folder / "recipe.yaml", overrides, default_step=default_step).steps


def plain(value: Any) -> Any:
    """As a person writes it in YAML: lists and strings."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
names = words.filter(STEP.fullmatch)
paths = words.map(lambda word: Path("in", word.replace("/", "").replace(".", "") or "x"))
st.register_type_strategy(Path, paths)
st.register_type_strategy(str, words)
numbers = st.integers(1, 10**9)
sizes = st.builds(lambda micro, times: {"micro_batch": micro, "global_batch": micro * times}, numbers, numbers)


amounts = st.floats(0, 1e9)
optional = st.none() | numbers
INIT = {
    "helper": paths,
    "neighbours": numbers,
    "temperature": st.floats(1e-9, 10),
    "ridge": amounts,
    "center": st.booleans(),
    "sparsity": numbers,
    "uncentered": st.booleans(),
    "text": st.lists(paths, min_size=1).map(tuple),
    "pad_to": numbers,
    "source_embeddings": paths,
    "target_embeddings": paths,
    "dictionary": paths,
    "take": numbers,
    "embeddings": paths,
    "trilayer": st.booleans(),
    "adversarial": st.booleans(),
    "lower": paths,
}


def init_by(method: str) -> st.SearchStrategy[Init]:
    options = {name: values for name, values in INIT.items() if method in USED_BY.get(name, (method,))}
    widths = st.integers(1, 10**5)
    width = {"grow": widths, "merge": st.none()}.get(method, st.none() | widths)
    return st.builds(Init, method=st.just(method), width=width, **options)


BUILD: dict[str, st.SearchStrategy[Any]] = {
    "tokenizer": st.builds(VERBS["tokenizer"], input=st.lists(paths, min_size=1).map(tuple), vocab_size=numbers),
    "embeddings": st.builds(
        VERBS["embeddings"],
        input=st.lists(paths, min_size=1).map(tuple),
        dimension=numbers,
        epochs=numbers,
        min_count=numbers,
    ),
    "dictionary": st.builds(VERBS["dictionary"], parallel=st.lists(paths, min_size=1, max_size=2).map(tuple)),
    "data": st.builds(
        VERBS["data"],
        input=st.lists(paths, min_size=1).map(tuple),
        sequence_length=numbers,
        workers=optional,
        validation_fraction=amounts,
    ),
    "pairs": st.builds(
        VERBS["pairs"],
        parallel=st.lists(paths, min_size=1, max_size=2).map(tuple),
        sequence_length=numbers,
        alignments=st.none() | paths,
        validation_fraction=amounts,
    ),
    "init": st.sampled_from(get_args(InitMethod)).flatmap(init_by),
    "convert": st.builds(VERBS["convert"]),
    "eval": st.builds(VERBS["eval"], blocks=optional, sequence_length=optional, micro_batch=numbers),
    "report": st.builds(VERBS["report"], evals=st.dictionaries(words, paths, min_size=1)),
    "inspect": st.builds(VERBS["inspect"]),
    "train": sizes.flatmap(
        lambda batch: st.builds(
            Train,
            data=st.dictionaries(words, st.builds(Corpus, weight=amounts), min_size=1),
            steps=numbers,
            log_every=numbers,
            optimizer=st.builds(
                Optimizer,
                lr=amounts,
                betas=st.tuples(amounts, amounts),
                eps=amounts,
                weight_decay=amounts,
                clip=amounts,
            ),
            **{key: st.just(value) for key, value in batch.items()},
        )
    ),
}


def test_every_verb_has_a_strategy() -> None:
    assert BUILD.keys() == VERBS.keys()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.dictionaries(names, st.one_of(*BUILD.values()), min_size=1, max_size=3))
def test_what_is_written_is_what_is_read(steps: dict[str, Step], tmp_path: Path) -> None:
    outs = {name: Path(f"/out/{number}") for number, name in enumerate(steps)}  # apart from each other and all inputs
    steps = {name: replace(step, out=outs[name]) if hasattr(step, "out") else step for name, step in steps.items()}
    document = {name: {"verb": verb_of(step), **plain(asdict(step))} for name, step in steps.items()}
    text = yaml.safe_dump({"steps": document}, allow_unicode=True, sort_keys=False)
    assert load(tmp_path, text) == steps


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    """YAML reads 1e-3 as a string and yes as true."""
    step = load(tmp_path, TRAIN + "    optimizer: {lr: 1e-3, eps: 1E-8}\n    isolate_documents: off\n")["de"]
    assert isinstance(step, Train)
    assert (step.optimizer.lr, step.optimizer.eps, step.isolate_documents) == (1e-3, 1e-8, False)


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("    optimizer: {bets: [0.9, 0.95]}", "unknown key 'de.optimizer.bets'; did you mean 'betas'?"),
        ("    micro_bath: 3", "unknown key 'de.micro_bath'; did you mean 'micro_batch'?"),
        ("    qqq: 3", "unknown key 'de.qqq'"),
        ("    optimizer: {lr: fast}", "'de.optimizer.lr': Input should be a valid number"),
        ("    optimizer: {lr: .nan}", "'de.optimizer.lr': Input should be a finite number"),
        ("    optimizer: {lr: -1}", "'de.optimizer.lr': Input should be greater than or equal to 0 (got -1)"),
        ("    optimizer: 3", "'de.optimizer': Input should be a dictionary"),
        ("    optimizer: {betas: [0.9]}", "key 'de.optimizer.betas.1' is missing"),
        (
            "    schedule: {kind: cosin}",
            "'de.schedule.kind': Input should be 'cosine', 'linear' or 'wsd'",
        ),
        ("    saving: {every: 0}", "'de.saving.every': Input should be greater than 0 (got 0)"),
        ("    saving: {every: on}", "'de.saving.every': Input should be a number, not yes or no"),
        ("    trainable: '*'", "'de.trainable': Input should be a valid tuple (got '*')"),
        ("    seed: 2024-01-01", "'de.seed': Input should be a valid integer"),
        ("    deepspeed: 3", "'de.deepspeed': Input is not a valid path"),
        ("    3: 4", "'de.3': Keys should be strings"),
        ("    steps: 10", "is not valid YAML: line 10, column 5: key 'steps' is given twice"),
        ("    optimizer: {lr: 1, lr: 2}", "is not valid YAML: line 10, column 24: key 'lr' is given twice"),
        ("    optimizer: {lr: 1", "is not valid YAML: line 11, column 1: did not find expected ',' or '}'"),
        ("    [1, 2]: 3", "is not valid YAML: line 10, column 5: found unhashable key"),
        ("  en: {verb: trian}", "en.verb is 'trian'; did you mean 'train'?; known: tokenizer, embeddings"),
        ("  en: {verb: [train]}", "en.verb is ['train']"),
        ("  en: {out: o}", "key 'en.verb' is missing; known: tokenizer"),
        ("  en: 3", "key 'en.verb' is missing; known: tokenizer"),
        ("  en: {verb: convert, model: m}", "key 'en.out' is missing"),
        ("  en: {verb: tokenizer, input: [], out: o}", "'en.input': Tuple should have at least 1 item"),
        ("  on: {verb: convert, model: m, out: o}", "the step name True is no text to YAML; put it in quotes"),
        ("  de: {verb: convert, model: m, out: o}", "line 10, column 3: key 'de' is given twice"),
        ("  en: {verb: init, source: m, out: o}", "'en': method clp needs helper"),
        (
            "  en: {verb: init, method: mean, source: m, tokenizer: t, out: o, ridge: 2}",
            "'en': method mean does not use ridge, which is for clp",
        ),
        (
            "  en: {verb: init, method: grow, source: m, out: o}",
            "'en': method grow needs width, heads, feed_forward or",
        ),
        (
            "  en: {verb: init, method: grow, source: m, out: o, depth: 9, tokenizer: t}",
            "'en': method grow does not use tokenizer, which is for clp, wechsel, focus, omp, random",
        ),
        (
            "  en: {verb: init, method: mean, source: m, tokenizer: t, out: o, fill: copy}",
            "'en': fill and noise are of what growth adds; give width, heads, feed_forward or depth",
        ),
        ("stesp: 3", "unknown key 'stesp'; did you mean 'steps'?"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(addition: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, TRAIN + addition + "\n")
    assert str(error.value).startswith(str(tmp_path / "recipe.yaml"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("micro_batch: 1", "micro_batch: 3", "'de': global_batch 2 is no multiple of micro_batch 3"),
        ("micro_batch: 1", "micro_batch: 0", "'de.micro_batch': Input should be greater than 0 (got 0)"),
        ("{bible: {path: x}}", "{}", "'de.data': Dictionary should have at least 1 item"),
        ("{path: x}", "{path: x, language: source}", "'de': objective causal does not use a corpus's language"),
        ("{path: x}", "{path: x, wieght: 1}", "unknown key 'de.data.bible.wieght'; did you mean 'weight'?"),
        ("    model: m\n", "", "key 'de.model' is missing"),
        (TRAIN, "", "expected a mapping 'steps' of step names to steps"),
        (TRAIN, "- a", "expected a mapping 'steps' of step names to steps"),
        (TRAIN, "steps: {}", "expected a mapping 'steps' of step names to steps"),
        (TRAIN, "a: b: c", "is not valid YAML: line 1, column 5: mapping values are not allowed in this context"),
        (TRAIN, "\0", "is not valid YAML"),
    ],
)
def test_a_key_that_is_wrong_or_missing(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, TRAIN.replace(old, new))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "latin1.yaml").write_bytes("ä".encode("latin1"))
    for path, message in (
        (tmp_path / "no.yaml", "no.yaml does not exist, and recipes/ has no file of that name; it has .*demo.yaml"),
        (tmp_path, "does not exist"),
        (tmp_path / "latin1.yaml", "latin1.yaml is no UTF-8 text"),
    ):
        with pytest.raises(UserError, match=message):
            load_recipe(path)


def test_overrides_reach_every_depth(tmp_path: Path) -> None:
    overrides = (
        "de.optimizer.lr=1e-4",
        "de.data.more.path=a=b",
        "de.trainable=[a, b]",
        "de.saving.every=null",
        "de.out=y",
    )
    step = load(tmp_path, TRAIN, *overrides)["de"]
    assert isinstance(step, Train)
    assert (step.optimizer.lr, step.trainable, step.saving.every, step.out) == (1e-4, ("a", "b"), None, Path("y"))
    assert step.data == {"bible": Corpus(path=Path("x")), "more": Corpus(path=Path("a=b"))}
    assert load(tmp_path, TRAIN, "optimizer.lr=2e-4", default_step="de") == load(
        tmp_path, TRAIN, "de.optimizer.lr=2e-4"
    )


def test_an_override_of_one_step_leaves_another_that_shares_the_section(tmp_path: Path) -> None:
    second = "  fr:\n    <<: *de\n    out: fr\n"
    text = TRAIN.replace("  de:\n", "  de: &de\n") + "    optimizer: {lr: 1}\n" + second
    steps = load(tmp_path, text, "fr.optimizer.lr=2")
    lrs = {name: step.optimizer.lr for name, step in steps.items() if isinstance(step, Train)}
    assert lrs == {"de": 1, "fr": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("de.optimizer.rl=1", "unknown key 'de.optimizer.rl'; did you mean 'lr'?"),
        ("ed.out=x", "override 'ed.out=x': no step 'ed'; did you mean 'de'?"),
        ("de.out.deep=x", "override 'de.out.deep=x': 'out' is no section"),
        ("de.out", "override 'de.out' is not of the form section.key=value"),
        ("de..out=x", "override 'de..out=x' is not of the form section.key=value"),
        ("de.trainable=[x", "override 'de.trainable=[x' is not valid YAML"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, TRAIN, override)
    assert message in str(error.value)


def test_the_one_step_of_a_verb(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(TRAIN)
    recipe = load_recipe(tmp_path / "one.yaml")
    assert recipe.only("train") == recipe.only("train", "de") == ("de", recipe.steps["de"])
    for verb, name, message in (
        ("train", "fr", "has no train step 'fr' (its train steps: de)"),
        ("data", None, "has no data step (its data steps: none)"),
    ):
        with pytest.raises(UserError) as error:
            recipe.only(verb, name)
        assert message in str(error.value)
    french = TRAIN.removeprefix("steps:\n").replace("  de:", "  fr:").replace("out: o", "out: p")
    (tmp_path / "two.yaml").write_text(TRAIN + french)
    with pytest.raises(UserError, match=r"has 2 train steps; pass --step \(its train steps: de, fr\)"):
        load_recipe(tmp_path / "two.yaml").only("train")


def test_defaults_are_those_of_the_dataclass(tmp_path: Path) -> None:
    steps = load(tmp_path, "steps: {a: {verb: init, source: s, helper: h, out: o}}")
    assert steps == {"a": Init(source=Path("s"), helper=Path("h"), out=Path("o"))}
