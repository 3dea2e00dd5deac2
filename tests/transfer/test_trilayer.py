"""TRILayer models out of encoders, and two of them merged; on files, through the verb."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer

from clpds.checkpoint import open_checkpoint
from clpds.errors import UserError
from clpds.inspection.show import describe
from clpds.models.trelm import TrelmBertForMaskedLM
from clpds.recipe import Init, checked
from clpds.transfer.init import init
from clpds.transfer.trelm import aligned_rows, by_shape, by_shared_tokens
from clpds.transfer.trilayer import insert_trilayer, merge
from clpds.vocabulary.adversarial import Unsupervised
from clpds.vocabulary.overlap import overlap
from clpds.vocabulary.roles import match_special
from clpds.vocabulary.token_vectors import token_counts, token_vectors, trelm
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer
from tests.transfer.test_clp import gauss, shared

SIZES = {"bert": 128, "roberta": 130}
HEAD = {"bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
        "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")}  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English BERT and RoBERTa of four layers, and a joint tokenizer."""
    folder = tmp_path_factory.mktemp("sources")
    english = tiny_tokenizer("wordpiece", "en")
    for shape in SIZES:
        model = tiny_model(
            shape, len(english), num_hidden_layers=4, bos_token_id=None, eos_token_id=None, pad_token_id=0
        )
        save_model(folder / shape, model, english)
    tiny_tokenizer("wordpiece", "de", 700).save_pretrained(folder / "joint")
    for language in ("en", "de"):
        (folder / f"{language}.txt").write_text("\n".join(text(language)[:8]))
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("shape", SIZES)
def test_the_trilayer_is_the_middle_block_and_the_rest_the_source(shape: str, sources: Path, tmp_path: Path) -> None:
    step = Init(
        method="overlap",
        trilayer=True,
        source=sources / shape,
        tokenizer=sources / "joint",
        out=tmp_path / "out",
        seed=5,
    )
    init(step)
    old, new = tensors(sources / shape), tensors(step.out)
    dense, norm, bias = HEAD[shape]
    for name in new:
        if ".trilayer." in name:
            assert torch.equal(new[name], new[name.replace("trilayer", "layer.2")]), name
        elif "language_embeddings" in name:
            assert new[name].shape == (2, 32)
            assert 0.01 < new[name].std() < 0.03  # the config's initializer_range is 0.02
        elif "word_embeddings" not in name and not name.startswith((dense, norm, bias)):
            assert torch.equal(new[name], old[name]), name
    assert 0.015 < new[f"{dense}.weight"].std() < 0.025
    assert torch.equal(new[f"{norm}.weight"], torch.ones(32))
    assert not any(new[name].any() for name in (f"{dense}.bias", f"{norm}.bias", bias))

    model = AutoModelForMaskedLM.from_pretrained(step.out)
    encoder = model.base_model.encoder
    storages = [{p.data_ptr() for p in block.parameters()} for block in (encoder.trilayer, encoder.layer[2])]
    assert storages[0].isdisjoint(storages[1])
    ids = AutoTokenizer.from_pretrained(step.out)("Im Anfang war das Wort", return_tensors="pt")
    assert model(**ids).logits.shape[-1] == len(model.get_input_embeddings().weight)
    assert ("kind", f"model, {type(model).__name__}") in describe(step.out)
    assert "clpds.models" in (step.out / "README.md").read_text()

    init(replace(step, out=tmp_path / "again"))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (step.out / "model.safetensors").read_bytes()
    init(replace(step, out=tmp_path / "other", seed=6))
    other = tensors(tmp_path / "other")
    drawn = [name for name in new if not torch.equal(other[name], new[name])]
    assert {name.split(".")[-2] for name in drawn} == {"dense", "language_embeddings", "word_embeddings"}


def test_a_head_that_is_kept_goes_with_the_rows(sources: Path, tmp_path: Path) -> None:
    step = Init(
        method="overlap",
        trilayer=True,
        keep_head=True,
        source=sources / "bert",
        tokenizer=sources / "joint",
        out=tmp_path / "out",
    )
    init(step)
    old, new = tensors(sources / "bert"), tensors(step.out)
    for name in HEAD["bert"][:2]:
        assert torch.equal(new[f"{name}.weight"], old[f"{name}.weight"])
    assert new["cls.predictions.bias"].any()


def test_rows_are_static_vectors_turned_into_the_sources_space() -> None:
    """A planted rotation is found again, whatever the vectors of the other tokens are."""
    found, S = shared(), torch.cat([gauss(100, 24, seed=2), gauss(100, 1, seed=9)], dim=1)  # a column of biases
    R = torch.linalg.qr(gauss(24, 24, seed=3)).Q
    X = gauss(85, 24, seed=4)
    X[found.target] = S[found.source, :24] @ R.T
    X[found.missing[0]] = 0  # in no text
    special = {int(found.target[3]): 7}
    new = aligned_rows(found, special, X, by_shared_tokens(found, X), seed=0)(S, "input")
    for id_ in found.missing[1:].tolist():
        torch.testing.assert_close(new[id_, :24], X[id_] @ R, atol=1e-4, rtol=1e-4)
    for target, source in zip(found.target.tolist(), found.source.tolist(), strict=True):
        expected = S[7] if target in special else S[source]
        torch.testing.assert_close(new[target, :24], expected[:24], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(new[found.missing, 24], S[:, 24].mean().expand(len(found.missing)))
    assert 0.3 < new[found.missing[0], :24].std() < 3
    X[found.target[10:]] = 0
    with pytest.raises(UserError, match="only 10 tokens of the text are tokens of the source too"):
        by_shared_tokens(found, X)


def test_trelm_gives_every_token_of_the_text_an_aligned_row(sources: Path, tmp_path: Path) -> None:
    texts = (sources / "en.txt", sources / "de.txt")
    step = Init(method="trelm", source=sources / "bert", tokenizer=sources / "joint", text=texts, out=tmp_path / "out")
    init(step)
    joint, english = (AutoTokenizer.from_pretrained(sources / name) for name in ("joint", "bert"))
    lines = (line for path in texts for line in path.read_text().splitlines())
    vectors = token_vectors(lines, joint, trelm(32), seed=0)
    source = tensors(sources / "bert")
    old = torch.cat([source["bert.embeddings.word_embeddings.weight"], source["cls.predictions.bias"][:, None]], dim=1)
    special = match_special(english, joint)
    shared = overlap(english, joint)
    rotation = by_shared_tokens(shared, vectors)
    expected = aligned_rows(shared, special, vectors, rotation, seed=0)(old, "input")[:, :-1]
    new = tensors(step.out)
    assert torch.equal(new["bert.embeddings.word_embeddings.weight"], expected)
    assert torch.equal(expected[list(special)], old[list(special.values()), :-1])
    assert "bert.encoder.trilayer.output.dense.weight" in new
    assert "aligned" in (step.out / "README.md").read_text()


def test_the_paper_aligns_without_a_pair_by_what_is_frequent() -> None:
    """A planted rotation of the same cloud is found; rows of ids that are in no text, or rare, are no hindrance."""
    cloud = gauss(900, 12, seed=1) * torch.linspace(0.3, 2, 12) + gauss(900, 12, seed=2).abs() ** 3
    R = torch.linalg.qr(gauss(12, 12, seed=3)).Q
    order = torch.randperm(900, generator=torch.Generator().manual_seed(4))
    vectors = torch.cat([torch.zeros(7, 12), cloud @ R.T])
    matrix = torch.cat([cloud[order], 50 * gauss(60, 12, seed=5)])
    frequency = torch.arange(900, 0, -1)
    counts = (
        torch.cat([torch.zeros(7, dtype=torch.int64), frequency]),
        torch.cat([frequency[order], torch.zeros(60).long()]),
    )
    told: list[Unsupervised] = []
    W = by_shape(vectors, counts, 0, told.append)(matrix)
    torch.testing.assert_close(W, R, atol=0.02, rtol=0)
    assert told[0].agreement > 0.9


def test_tokens_are_counted() -> None:
    tokenizer = tiny_tokenizer("wordpiece", "de", 700)
    counts = token_counts(["Gott und Gott", "und"], tokenizer)
    assert counts.sum() == sum(len(tokenizer.tokenize(part)) for part in ("Gott und Gott", "und"))
    assert counts[tokenizer.convert_tokens_to_ids("und")] == 2


def test_merge_takes_a_half_of_each_and_the_mean_of_the_rest(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("wordpiece", "de")
    for name, seed in (("lower", 1), ("upper", 2)):
        save_model(
            tmp_path / name, tiny_model("trelm-bert", len(tokenizer), seed=seed, dtype=torch.bfloat16), tokenizer
        )
    init(Init(method="merge", source=tmp_path / "upper", lower=tmp_path / "lower", out=tmp_path / "out"))
    lower, upper, new = (tensors(tmp_path / name) for name in ("lower", "upper", "out"))
    assert new.keys() == upper.keys()
    for name in new:
        mean = ((lower[name].float() + upper[name].float()) / 2).bfloat16()
        half = {"0": lower, "1": lower, "2": upper, "3": upper}
        number = name.split("layer.")[1][0] if "encoder.layer." in name else None
        assert torch.equal(new[name], half[number][name] if number else mean), name
    assert not torch.equal(
        new["bert.encoder.trilayer.output.dense.weight"], upper["bert.encoder.layer.2.output.dense.weight"]
    )

    same = open_checkpoint(tmp_path / "upper")
    for name, tensor in merge(same, same).tensors.items():
        assert torch.equal(tensor.load(), upper[name]), name
        if tensor.rows is not None:
            assert torch.equal(tensor.flat(3, 9), upper[name].flatten()[3:9])


def test_what_does_not_fit_is_one_line(sources: Path, tmp_path: Path) -> None:
    joint, out = sources / "joint", tmp_path / "out"
    tokenizer = tiny_tokenizer("byte_bpe", "en")
    save_model(tmp_path / "gpt2", tiny_model("gpt2", len(tokenizer)), tokenizer)
    english = tiny_tokenizer("wordpiece", "en")
    save_model(tmp_path / "odd", tiny_model("bert", len(english), num_hidden_layers=3, pad_token_id=0), english)
    german = tiny_tokenizer("wordpiece", "de")
    save_model(tmp_path / "tri", tiny_model("trelm-bert", len(german)), german)
    save_model(tmp_path / "deep", tiny_model("trelm-bert", len(german), num_hidden_layers=6), german)
    save_model(tmp_path / "english", tiny_model("trelm-bert", len(english)), english)
    asked = Init(method="random", trilayer=True, source=sources / "bert", tokenizer=joint, out=out)
    merged = Init(method="merge", source=tmp_path / "tri", lower=tmp_path / "tri", out=out)
    for step, message in (
        (replace(asked, source=tmp_path / "gpt2"), "is a gpt2 model; a TRILayer goes into bert and roberta only"),
        (replace(asked, source=tmp_path / "odd"), "has 3 layers and so no middle"),
        (replace(asked, source=tmp_path / "tri"), "is a trelm-bert model; a TRILayer goes into"),
        (replace(merged, lower=sources / "bert"), "bert is a bert model without a TRILayer"),
        (
            replace(merged, lower=tmp_path / "deep"),
            r"differ in bert.encoder.layer.4.attention.* and 27 more; merge two",
        ),
        (replace(merged, lower=tmp_path / "english"), "have different tokenizers"),
    ):
        with pytest.raises(UserError, match=message):
            init(step)
        assert not out.exists()
    for options, message in (
        ({"keep_head": True}, "keep_head is of TRILayer models"),
        ({"method": "grow", "width": 64, "trilayer": True, "tokenizer": None}, "method grow does not use trilayer"),
        ({"method": "merge", "tokenizer": None}, "method merge needs lower"),
        ({"method": "merge", "lower": out, "width": 64, "tokenizer": None}, "method merge does not grow"),
        ({"method": "trelm"}, "method trelm needs text"),
    ):
        with pytest.raises(UserError, match=message):
            checked(Init, {"method": "random", "source": out, "tokenizer": joint, "out": out} | options)


def test_inserting_reads_no_weights(sources: Path) -> None:
    source = open_checkpoint(sources / "bert")
    file = sources / "bert" / "model.safetensors"
    content = file.read_bytes()
    try:
        os.truncate(file, 8 + int.from_bytes(content[:8], "little"))  # the header is all that is left
        made = insert_trilayer(source, seed=0)
    finally:
        file.write_bytes(content)
    assert set(made.tensors) == set(tiny_trelm_names())


def tiny_trelm_names() -> set[str]:
    config = tiny_model("trelm-bert", 50).config
    return set(dict(TrelmBertForMaskedLM(config).named_parameters()))
