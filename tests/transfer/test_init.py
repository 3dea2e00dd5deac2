"""The verb init on files: real tokenizers of several families, tiny models."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from clpds import provenance
from clpds.recipe import Init
from clpds.transfer.clp import Variant
from clpds.transfer.init import init
from clpds.transfer.methods import METHODS
from clpds.vocabulary.overlap import Overlap, overlap
from clpds.vocabulary.pieces import pieces
from clpds.vocabulary.tokenizer import load_tokenizer
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer
from tests.transfer.test_clp import naive


def shared_of(models: Path) -> Overlap:
    return overlap(load_tokenizer(models / "source"), load_tokenizer(models / "helper"))


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def test_clp_writes_a_model_whose_rows_are_the_published_ones(step: Init, models: Path) -> None:
    init(step)
    found, old, new = shared_of(models), tensors(models / "source"), tensors(step.out)
    helper = tensors(models / "helper")
    pairs = {"model.embed_tokens.weight": "transformer.wte.weight", "lm_head.weight": "lm_head.weight"}
    for name, helper_name in pairs.items():
        assert new[name].dtype == torch.bfloat16
        assert torch.equal(new[name][found.target], old[name][found.source])
        expected = naive(helper[helper_name], old[name], found, Variant("published"))
        torch.testing.assert_close(new[name][found.missing].double(), expected, rtol=1e-2, atol=1e-3)
    assert all(torch.equal(new[name], old[name]) for name in old if name not in pairs)

    tokenizer = AutoTokenizer.from_pretrained(step.out)
    model = AutoModelForCausalLM.from_pretrained(step.out)
    logits = model(**tokenizer("Im Anfang schuf Gott", return_tensors="pt", return_token_type_ids=False)).logits
    assert logits.isfinite().all()
    assert model.config.vocab_size == len(tokenizer)
    for config in (model.config, model.generation_config):
        ids = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
        assert ids == (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_what_was_done_is_on_record(step: Init, capsys: pytest.CaptureFixture[str]) -> None:
    init(replace(step, weighting="auto"))
    record = provenance.read(step.out)
    assert record is not None
    assert provenance.verify(step.out) == []
    ranking = record["ranking"]
    assert {score["kind"] for score in ranking} == {"published", "clipped", "nearest", "ridge", "mean row"}
    first = next(score for score in ranking if score["kind"] == "ridge")
    assert {key: first[key] for key in record["weighting"]} == record["weighting"]
    assert record["shrink"] == 0.25
    assert record["overlap"]["new"] > 0
    assert set(record["condition"]) == {"input", "output"}
    readme = (step.out / "README.md").read_text()
    assert readme.startswith("---\nbase_model: source\nlibrary_name: transformers\n")
    assert str(step.source.parent) not in readme
    screen = capsys.readouterr().out
    assert "tokens shared" in screen
    assert "nearest" in screen
    assert "wrote" in screen


def test_unfit_rows_are_a_warning_that_names_a_better_weighting(
    step: Init, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    helper, found = tmp_path / "helper", shared_of(models)
    shutil.copytree(models / "helper", helper)
    weights, old = tensors(helper), tensors(models / "source")
    for name, ours in (("transformer.wte.weight", "model.embed_tokens.weight"), ("lm_head.weight", "lm_head.weight")):
        weights[name][found.target] = old[ours][found.source, :16].float()  # a helper that knows the source's space
        weights[name] += 20 * weights[name].std()  # and one direction for all
    save_file(weights, helper / "model.safetensors", {"format": "pt"})
    init(replace(step, helper=helper))
    captured = capsys.readouterr()
    assert "nearly one vector" in captured.err
    better = captured.err.partition("better: ")[2].partition(" (")[0]
    assert "recommended" not in captured.out

    options = dict(zip(better.split()[::2], better.split()[1::2], strict=False))
    chosen = replace(
        step,
        helper=helper,
        out=tmp_path / "better",
        weighting=options["--weighting"],
        ridge=float(options.get("--ridge", 0.01)),
        neighbours=int(options.get("--neighbours", 10)),
        temperature=float(options.get("--temperature", 0.05)),
        center="--center" in better,
    )
    init(chosen)
    assert "one vector" not in capsys.readouterr().err
    record = provenance.read(chosen.out)
    assert record is not None
    first, published = (
        next(s for s in record["ranking"] if s["kind"] == kind) for kind in (chosen.weighting, "published")
    )
    assert first["loss"] < published["loss"] - 0.1


def test_a_helper_that_tells_nothing_is_no_reason_to_recommend_a_weighting(
    step: Init, capsys: pytest.CaptureFixture[str]
) -> None:
    init(step)  # the helper's weights are random
    captured = capsys.readouterr()
    assert "no weighting predicts hidden tokens better than the mean row" in captured.err
    assert "recommended" not in captured.out


def test_masked_model_with_biases_and_a_tied_head(tmp_path: Path, models: Path) -> None:
    english, german = tiny_tokenizer("wordpiece", "en"), tiny_tokenizer("wordpiece", "de")
    save_model(tmp_path / "source", tiny_model("bert", len(english)), english)
    save_model(tmp_path / "helper", tiny_model("bert", len(german), seed=1), german)
    init(Init(source=tmp_path / "source", helper=tmp_path / "helper", out=tmp_path / "out", pad_to=64, dtype="float16"))
    found, old, new = shared_of(tmp_path), tensors(tmp_path / "source"), tensors(tmp_path / "out")
    H = tensors(tmp_path / "helper")["bert.embeddings.word_embeddings.weight"]
    bias = old["cls.predictions.bias"]
    beside = torch.cat([old["bert.embeddings.word_embeddings.weight"], bias[:, None]], dim=1)
    expected = naive(H, beside, found, Variant("published"))[:, -1]
    assert {tensor.dtype for tensor in new.values()} == {torch.float16}
    assert len(new["cls.predictions.bias"]) == -(-len(german) // 64) * 64
    assert torch.equal(new["cls.predictions.bias"][found.target], bias[found.source].half())
    torch.testing.assert_close(new["cls.predictions.bias"][found.missing].double(), expected, rtol=2e-3, atol=1e-4)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert model.config.pad_token_id == german.pad_token_id


def with_a_hole(folder: Path, tokenizer: Any) -> Path:
    """The tokenizer in ``folder`` with its last token five ids higher."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    pipeline = json.loads(file.read_text())
    vocabulary = pipeline["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary[last] += 5
    file.write_text(json.dumps(pipeline))
    return folder


@pytest.fixture(scope="module")
def german_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "german.txt"
    file.write_text("\n".join(text("de")), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def knowledge(german_text: Path) -> dict[str, Any]:
    """What any method needs beside models: text, and word embeddings (random) with a dictionary."""
    folder = german_text.parent
    vocabularies = [sorted(set("\n".join(text(language, 3)).split()))[:300] for language in ("en", "de")]
    for language, words in zip(("en", "de"), vocabularies, strict=True):
        rows = torch.randn(len(words), 8, generator=torch.Generator().manual_seed(0)).tolist()
        lines = [f"{word} {' '.join(map(str, row))}\n" for word, row in zip(words, rows, strict=True)]
        (folder / f"{language}.vec").write_text(f"{len(words)} 8\n" + "".join(lines), encoding="utf-8")
    pairs = zip(*vocabularies, strict=True)
    (folder / "dictionary.txt").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    return {
        "text": (german_text,),
        "source_embeddings": folder / "en.vec",
        "target_embeddings": folder / "de.vec",
        "dictionary": folder / "dictionary.txt",
    }


@pytest.mark.parametrize("method", METHODS)
def test_tokenizers_with_holes_in_their_ids(method: Any, step: Init, tmp_path: Path, knowledge: dict[str, Any]) -> None:
    german = tiny_tokenizer("byte_bpe", "de")
    helper = with_a_hole(tmp_path / "helper", german)
    tiny_model("llama", 640, seed=1).save_pretrained(helper)
    init(replace(step, method=method, helper=helper, **knowledge))
    new = tensors(step.out)["model.embed_tokens.weight"].float()
    count = len(german)
    assert len(new) == count + 5
    used = torch.tensor([*range(count - 1), count + 4])
    for hole in range(count - 1, count + 4):
        torch.testing.assert_close(new[hole], new[used].mean(dim=0), rtol=1e-2, atol=1e-4)


def test_random_rows_have_the_sources_mean_and_deviation(step: Init, models: Path) -> None:
    init(replace(step, method="random", helper=None, tokenizer=models / "helper", seed=3))
    found, old, new = shared_of(models), tensors(models / "source"), tensors(step.out)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows, source = new[name].float(), old[name].float()
        error = source.std(dim=0) / len(rows) ** 0.5
        assert ((rows.mean(dim=0) - source.mean(dim=0)).abs() < 5 * error).all()
        torch.testing.assert_close(rows.std(dim=0), source.std(dim=0), rtol=0.2, atol=0)
        assert not (rows[found.target] == source[found.source]).all(dim=1).any()
    both = torch.stack([new[name].float().flatten() for name in ("model.embed_tokens.weight", "lm_head.weight")])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.05  # each its own noise


@pytest.mark.parametrize("method", ["overlap", "focus", "omp"])
def test_the_overlap_is_copied_and_the_rest_is_new(method: Any, step: Init, models: Path, german_text: Path) -> None:
    init(replace(step, method=method, text=(german_text,)))
    found, old, new = shared_of(models), tensors(models / "source"), tensors(step.out)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(new[name][found.target], old[name][found.source])
        missing = new[name][found.missing].float()
        assert missing.isfinite().all()
        assert len(missing.unique(dim=0)) > 0.9 * len(missing)
    record = provenance.read(step.out)
    assert record is not None
    if method == "focus":
        assert record["inputs"]["text 1"]["sha256"] == provenance.hash_file(german_text)
    if method == "omp":
        assert str(record["sparsity"]) in record["losses"]


@pytest.mark.parametrize("method", METHODS)
def test_an_extended_model_keeps_the_sources_tokens(
    method: Any, step: Init, models: Path, knowledge: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    step = replace(step, method=method, **knowledge)
    init(replace(step, extend=True, pad_to=8))
    init(replace(step, out=step.out.with_name("replaced")))
    old, new, replaced = (tensors(folder) for folder in (models / "source", step.out, step.out.with_name("replaced")))
    source, target = load_tokenizer(models / "source"), load_tokenizer(models / "helper")
    first, tokenizer = len(source), AutoTokenizer.from_pretrained(step.out)
    wanted, found = pieces(target), pieces(load_tokenizer(step.out))
    same = {piece.bytes: id_ for id_, piece in wanted.items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(new[name][:first], old[name][:first])
        for id_ in range(first, len(tokenizer)):
            assert torch.equal(new[name][id_], replaced[name][same[found[id_].bytes]])
    record = provenance.read(step.out)
    assert record is not None
    assert record["extension"]["added"] == len(tokenizer) - first > 100
    assert "added" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(step.out)
    source_config = AutoModelForCausalLM.from_pretrained(models / "source").config
    assert (model.config.eos_token_id, model.config.bos_token_id) == (
        source_config.eos_token_id,
        source_config.bos_token_id,
    )
    assert model.config.vocab_size == len(new["lm_head.weight"]) == -(-len(tokenizer) // 8) * 8
    logits = model(**tokenizer("Im Anfang schuf Gott", return_tensors="pt", return_token_type_ids=False)).logits
    assert logits.isfinite().all()


def test_mean_rows(step: Init, models: Path) -> None:
    init(replace(step, method="mean"))
    found, old, new = shared_of(models), tensors(models / "source"), tensors(step.out)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(new[name][found.target], old[name][found.source])
        mean = old[name].float().mean(dim=0)
        torch.testing.assert_close(
            new[name][found.missing].float(), mean.expand(len(found.missing), -1), rtol=1e-2, atol=1e-4
        )


def test_subpiece_rows_are_the_mean_of_the_tokens_own_text(step: Init, models: Path) -> None:
    init(replace(step, method="subpieces"))
    source, german = load_tokenizer(models / "source"), load_tokenizer(models / "helper")
    found, old, new = shared_of(models), tensors(models / "source"), tensors(step.out)
    texts = pieces(german)
    some = [id_ for id_ in found.missing.tolist() if id_ in texts]
    for id_ in some[::10]:
        ids = source.encode(texts[id_].bytes.decode(), add_special_tokens=False)
        mean = old["lm_head.weight"][ids].float().mean(dim=0)
        torch.testing.assert_close(new["lm_head.weight"][id_].float(), mean, rtol=1e-2, atol=1e-4)


SCRIPT = """
import sys
from pathlib import Path
from clpds.recipe import Init
from clpds.transfer.init import init
from clpds.transfer.methods import METHODS
source, helper, out = map(Path, sys.argv[1:])
init(Init(source=source, helper=helper, out=out, weighting="auto"))
"""


def test_the_bytes_do_not_depend_on_the_hash_seed(step: Init, tmp_path: Path) -> None:
    init(replace(step, weighting="auto"))  # under the seed that this process has
    command = [sys.executable, "-c", SCRIPT, str(step.source), str(step.helper), str(tmp_path / "other")]
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "4242"}, check=True)
    records = [(folder / provenance.FILE).read_bytes() for folder in (step.out, tmp_path / "other")]
    assert records[0] == records[1]  # it holds the hashes of all files


def test_a_tokenizer_that_transformers_misreads_is_a_warning(
    step: Init, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(replace(step, method="mean"))
    assert "AutoTokenizer" not in capsys.readouterr().err
    english = tiny_tokenizer("byte_bpe", "en")
    source = save_model(tmp_path / "qwen2", tiny_model("qwen2", len(english)), english)
    init(replace(step, method="mean", source=source, out=tmp_path / "qwen2-german"))
    assert "open it with PreTrainedTokenizerFast" in capsys.readouterr().err
    text = "Im Anfang schuf Gott"
    opened = PreTrainedTokenizerFast.from_pretrained(tmp_path / "qwen2-german")
    assert opened(text).input_ids == load_tokenizer(step.helper or step.out)(text).input_ids
