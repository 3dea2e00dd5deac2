"""What the commands of the table would work with, were it not for the one thing that is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from clpds.data.prepare import prepare
from clpds.recipe import Data
from clpds.vocabulary.roles import special_ids
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer

WORDS = ["und", "der", "die", "das", "nicht", "ein", "ich", "er", "sie", "mit", "Gott", "Herr", "sein", "war", "alle"]
TRAIN = {
    "verb": "train", "model": "model", "data": {"de": {"path": "data"}}, "out": "run", "steps": 2, "micro_batch": 2,
    "global_batch": 4, "deepspeed": "cpu.json",
}  # fmt: skip
EVALUATION = {"loss": 3.0, "perplexity": 20.0, "bits_per_byte": 1.0, "tokenizer": "a", "text": "b"}


def copy_of(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that the test may damage, and in which it runs."""
    copy = tmp_path / "here"
    shutil.copytree(good, copy)
    monkeypatch.chdir(copy)
    return copy


def write_good(folder: Path) -> None:
    """A causal model in shards, one of BERT, a helper, data, text, vectors, a recipe, a run: each good."""
    german, english, pieces = tiny_tokenizer("byte_bpe"), tiny_tokenizer("byte_bpe", "en"), tiny_tokenizer("wordpiece")
    model = tiny_model("llama", len(german), **special_ids(german))
    model.save_pretrained(folder / "model")
    german.save_pretrained(folder / "model")
    model.save_pretrained(folder / "sharded", max_shard_size="60KB")
    save_model(folder / "english", tiny_model("llama", len(english), **special_ids(english)), english)
    save_model(folder / "bert", tiny_model("bert", len(pieces), **special_ids(pieces)), pieces)
    german.save_pretrained(folder / "tokenizer")
    for language in ("de", "en"):
        lines = "\n".join(text(language, 4)).splitlines()[:80]
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n")
        vectors = [f"{word} " + " ".join(f"{len(word) * (i + 1) % 7 - 3:.1f}" for i in range(4)) for word in WORDS]
        (folder / f"{language}.vec").write_text("\n".join([f"{len(WORDS)} 4", *vectors]) + "\n")
    data = Data(
        input=(folder / "de.txt",), tokenizer=folder / "tokenizer", sequence_length=16, out=folder / "data",
        validation_fraction=0.2, workers=1,
    )  # fmt: skip
    prepare(data)
    (folder / "r.yaml").write_text(yaml.safe_dump({"steps": {"train": TRAIN}}))
    (folder / "eval.json").write_text(json.dumps(EVALUATION))
    (folder / "old").mkdir()
    (folder / "old" / "stage.json").write_text(
        json.dumps({"steps": 4, "objective": "causal", "model": "m", "data": {}})
    )
    (folder / "old" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "tokens": 64, "tokens_per_second": 9}\n')
