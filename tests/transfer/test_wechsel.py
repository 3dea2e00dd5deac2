"""WECHSEL against its definition, against the published package where that is installed, and on real text.

The package needs libraries that this project does not. To run the test against it, put them in a folder of their own
and behind the path (fasttext-wheel is fasttext, built):

    pip install --no-deps --target ORACLE wechsel fasttext-wheel nltk scikit-learn narwhals joblib loky cloudpickle \
        threadpoolctl
    PYTHONPATH=ORACLE pytest tests/transfer/test_wechsel.py
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gensim.models import Word2Vec
from scipy.linalg import orthogonal_procrustes
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from clpds.data.samples import chapters
from clpds.errors import UserError
from clpds.recipe import Dictionary, Embeddings, Init, checked
from clpds.transfer.baselines import random_rows
from clpds.transfer.init import init
from clpds.transfer.wechsel import find_neighbours, wechsel
from clpds.vocabulary import adversarial
from clpds.vocabulary import blocks as room
from clpds.vocabulary.alignment import align
from clpds.vocabulary.dictionary import induce_dictionary, read_dictionary
from clpds.vocabulary.fasttext import train_embeddings
from clpds.vocabulary.overlap import Overlap
from clpds.vocabulary.pieces import pieces
from clpds.vocabulary.static import StaticEmbeddings, read_static
from clpds.vocabulary.subwords import subword_vectors
from tests.tiny import save_model, tiny_model, tiny_tokenizer

CHAPTERS = 150


def gauss(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_equal_the_definition_token_by_token(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BLOCK", 300)  # several blocks in every loop
    source, target, S = gauss(70, 8, seed=1), gauss(50, 8, seed=2), gauss(70, 12, seed=3).to(dtype)
    source[5], target[7] = 0, 0  # without a vector
    shared = Overlap(torch.tensor([3, 9]), torch.tensor([60, 2]), torch.arange(10, 50), 50, {})
    drawn = random_rows(shared, seed=0)
    copied = torch.tensor([3]), torch.tensor([60])
    new = wechsel(find_neighbours(source, target, 10), copied, drawn, 0.1)(S, "input")
    for t in range(50):
        cosines = cosine_similarity(target[t][None].double(), source.double())
        cosines[5] = -2
        k_nearest = cosines.argsort(descending=True)[:10]
        weights = (cosines[k_nearest] / 0.1).exp()
        expected = (weights / weights.sum()) @ S[k_nearest].double()
        if t == 7:
            expected = drawn(S, "input")[7].double()
        if t == 3:
            expected = S[60].double()
        torch.testing.assert_close(new[t].double(), expected, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=0)
    assert new.dtype == dtype


def test_a_source_without_any_vector_is_one_line() -> None:
    with pytest.raises(UserError, match="the source embeddings give no token of the source tokenizer a vector"):
        find_neighbours(torch.zeros(5, 3), gauss(4, 3, seed=1))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two Bibles: embeddings ``en`` and ``de``, the dictionary that their verses give."""
    folder = tmp_path_factory.mktemp("wechsel")
    english, german = (list(chapters(language).values())[:CHAPTERS] for language in ("en", "de"))
    pairs = [pair for a, b in zip(english, german, strict=True) if len(a) == len(b) for pair in zip(a, b, strict=True)]
    for side, language in enumerate(("en", "de")):
        lines = "".join(f"{pair[side]}\n" for pair in pairs)
        (folder / f"{language}.txt").write_text(lines, encoding="utf-8")
        train_embeddings(
            Embeddings(input=(folder / f"{language}.txt",), out=folder / language, dimension=24, min_count=3)
        )
    induce_dictionary(Dictionary(parallel=(folder / "en.txt", folder / "de.txt"), out=folder / "en-de.txt"))
    return folder


@pytest.fixture
def step(real: Path, tmp_path: Path) -> Init:
    """English GPT-2, tied; the German tokenizer is a unigram."""
    english, german = tiny_tokenizer("byte_bpe", "en"), tiny_tokenizer("unigram", "de")
    source = save_model(tmp_path / "source", tiny_model("gpt2", len(english)), english)
    german.save_pretrained(tmp_path / "german")
    return Init(
        method="wechsel",
        source=source,
        tokenizer=tmp_path / "german",
        source_embeddings=real / "en",
        target_embeddings=real / "de",
        dictionary=real / "en-de.txt",
        out=tmp_path / "out",
    )


def test_neighbours_on_real_text_are_translations(real: Path) -> None:
    """Whole words of the German tokenizer lie nearer to their English translation than to nearly all other tokens."""
    english, german = (tiny_tokenizer("byte_bpe", language, 1500) for language in ("en", "de"))
    ours, theirs = read_static(real / "en"), read_static(real / "de")
    alignment = align(ours, theirs, read_dictionary(real / "en-de.txt"), name="en-de.txt")
    found = find_neighbours(subword_vectors(english, ours) @ alignment.W, subword_vectors(german, theirs), 50)
    spelt = {id_: piece.bytes.decode(errors="replace").strip() for id_, piece in pieces(english).items()}
    nearest = {int(t): [spelt[int(s)] for s in row] for t, row in zip(found.targets, found.sources, strict=True)}
    vocabulary = german.get_vocab()
    expected = {"Gott": "God", "und": "and", "Vater": "father", "Sohn": "son", "Israel": "Israel", "nicht": "not"}
    assert all(word in nearest[vocabulary[f"Ġ{german_word}"]] for german_word, word in expected.items())


@pytest.mark.parametrize(
    ("shape", "tied", "auto"),
    [
        ("gpt2", True, AutoModelForCausalLM),
        ("llama", False, AutoModelForCausalLM),
        ("roberta", True, AutoModelForMaskedLM),
    ],
)
def test_causal_and_masked_models_get_rows_for_embedding_and_head(
    shape: str, tied: bool, auto: Any, step: Init, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    english, german = tiny_tokenizer("byte_bpe", "en"), tiny_tokenizer("unigram", "de")
    source = tiny_model(shape, len(english), tied=tied)
    step = replace(step, source=save_model(tmp_path / shape, source, english), neighbours=5, temperature=0.2)
    init(step)
    said = capsys.readouterr().out
    facts = json.loads((step.out / "provenance.json").read_text())
    assert sum(facts["rows"].values()) == len(german)
    assert facts["rows"]["nearest"] > 0.9 * len(german)
    assert f"{facts['rows']['nearest']:,} nearest" in said
    assert "pairs are in both embeddings" in said
    assert set(facts["inputs"]) == {"source", "tokenizer", "source_embeddings", "target_embeddings", "dictionary"}
    new = auto.from_pretrained(step.out)
    ours, theirs = read_static(real / "en"), read_static(real / "de")
    W = align(ours, theirs, read_dictionary(real / "en-de.txt"), name="d").W
    found = find_neighbours(subword_vectors(english, ours) @ W, subword_vectors(german, theirs), 5)
    weights = torch.softmax(found.cosines / 0.2, dim=1)
    for old_matrix, matrix in (
        (source.get_input_embeddings().weight, new.get_input_embeddings().weight),
        (source.get_output_embeddings().weight, new.get_output_embeddings().weight),
    ):
        expected = torch.einsum("mk,mkd->md", weights, old_matrix[found.sources])
        torch.testing.assert_close(matrix[found.targets], expected, atol=1e-5, rtol=0)
    token = german.get_vocab()["<s>"]
    assert torch.equal(new.get_input_embeddings().weight[token], source.get_input_embeddings().weight[0])


def test_shared_rows_are_copied_when_asked(step: Init, tmp_path: Path) -> None:
    init(step)
    init(replace(step, copy_overlap=True, out=tmp_path / "copied"))
    old = AutoModelForCausalLM.from_pretrained(step.source).get_input_embeddings().weight
    english, german = tiny_tokenizer("byte_bpe", "en").get_vocab(), tiny_tokenizer("unigram", "de").get_vocab()
    for folder, same in ((step.out, False), (tmp_path / "copied", True)):
        new = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
        assert torch.equal(new[german["e"]], old[english["e"]]) == same


def test_embeddings_without_ngrams_take_the_words_that_contain_a_token() -> None:
    """The definition, word by word; a word counts once for each of its two segmentations that has the token."""
    german = tiny_tokenizer("byte_bpe", "de")
    words = ["Gott", "Himmel", "Erde", "Gottes", "himmlisch"]
    static = StaticEmbeddings(
        "w", {word: n for n, word in enumerate(words)}, gauss(5, 6, seed=1), torch.tensor([9.0, 5, 4, 2, 1]).double()
    )
    found = subword_vectors(german, static)
    texts = pieces(german)
    for id_ in range(len(german)):
        total, weight = torch.zeros(6).double(), 0.0
        for n, word in enumerate(words):
            for segmented in (german.encode(word), german.encode(f" {word}")):
                if id_ in segmented and id_ in texts and texts[id_].bytes.strip():
                    total += static.counts[n] * static.matrix[n]
                    weight += float(static.counts[n])
        expected = total / weight if weight else total
        torch.testing.assert_close(found[id_].double(), expected, atol=1e-6, rtol=0)
    assert found.any(dim=1).sum() >= 5


def test_tokens_without_text_have_no_vector(real: Path) -> None:
    english = tiny_tokenizer("byte_bpe", "en")
    found = subword_vectors(english, read_static(real / "en"))
    vocabulary = english.get_vocab()
    assert not found[[vocabulary["<s>"], vocabulary["Ġ"], vocabulary["Ã"]]].any()
    # The space that begins a word is no part of it.
    static = read_static(real / "en")
    assert torch.equal(found[vocabulary["Ġthe"]], static.matrix[static.index["the"]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda real: {"source_embeddings": None}, "method wechsel needs source_embeddings"),
        (
            lambda real: {"dictionary": None, "target_embeddings": real / "other.vec"},
            r"en has 24 dimensions and .*other\.vec 3",
        ),
        (lambda real: {"method": "mean"}, "method mean does not use source_embeddings"),
        (lambda real: {"source_embeddings": real / "en.txt"}, r"en\.txt is no word embeddings"),
        (lambda real: {"target_embeddings": real / "other.vec"}, r"en has 24 dimensions and .*other\.vec 3"),
        (lambda real: {"dictionary": real / "other.txt"}, r"only 0 of 30 pairs of .*other\.txt are in both"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    change: Callable[[Path], dict[str, Any]], message: str, step: Init, real: Path
) -> None:
    (real / "other.vec").write_text("1 3\nund 1 2 3\n")
    (real / "other.txt").write_text("слово word\n" * 30)
    options = {**vars(step), **change(real)}
    with pytest.raises(UserError, match=message) as caught:
        init(checked(Init, options))
    assert "\n" not in str(caught.value)
    assert not step.out.exists()


def test_a_dictionary_that_tells_nothing_is_a_warning(
    step: Init, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(replace(step, out=tmp_path / "good"))
    assert not capsys.readouterr().err
    pairs = [line.split("\t") for line in (real / "en-de.txt").read_text().splitlines()]
    shuffled = "".join(f"{a}\t{pairs[(n + 200) % len(pairs)][1]}\n" for n, (a, _) in enumerate(pairs))
    (tmp_path / "wrong.txt").write_text(shuffled)
    init(replace(step, dictionary=tmp_path / "wrong.txt"))
    error = capsys.readouterr().err
    assert "finds next to no translation" in error
    assert error.count("\n") == 1
    right = "".join(f"{a}\t{b}\n" for a, b in pairs)
    (tmp_path / "names.txt").write_text(right + "mot\txyzzy\n" * 12 * len(pairs))
    init(replace(step, dictionary=tmp_path / "names.txt", overwrite=True))
    error = capsys.readouterr().err
    assert "pairs of the dictionary are in both embeddings; is it" in error
    assert error.count("\n") == 1


def _rotated(static: StaticEmbeddings, noise: float) -> StaticEmbeddings:
    """The same language in other coordinates: what two trainings with different seeds would ideally give."""
    d = static.matrix.shape[1]
    matrix = static.matrix @ torch.linalg.qr(gauss(d, d, seed=1)).Q
    return replace(static, matrix=matrix + noise * matrix.std() * gauss(*matrix.shape, seed=2), ngrams=None)


def test_without_a_dictionary_the_shape_of_the_spaces_aligns_them(
    step: Init, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From real vectors to the same, rotated: found. To vectors of nothing: a warning, and the model is written."""
    monkeypatch.setattr(adversarial, "FREQUENT", 250)
    monkeypatch.setattr(adversarial, "STEPS", 5)
    english = read_static(real / "en")
    for name, target in (
        ("same", _rotated(english, 0.1)),
        ("nothing", replace(english, matrix=gauss(*english.matrix.shape, seed=3))),
    ):
        rows = "".join(
            f"{word} {' '.join(map(str, target.matrix[row].tolist()))}\n" for word, row in english.index.items()
        )
        (tmp_path / f"{name}.vec").write_text(f"{len(english.index)} {english.matrix.shape[1]}\n{rows}")
        init(
            replace(
                step,
                dictionary=None,
                tokenizer=step.source,
                target_embeddings=tmp_path / f"{name}.vec",
                max_words=400,
                out=tmp_path / name,
            )
        )
        told = capsys.readouterr()
        facts = json.loads((tmp_path / name / "provenance.json").read_text())["alignment"]
        assert f"mean CSLS {facts['criterion']:.3f}; the two best runs share {facts['agreement']:.1%}" in told.out
        warnings = [line for line in told.err.splitlines() if "warning" in line]
        assert len(warnings) == (name == "nothing")
        assert all("the alignment seems to have failed" in line for line in warnings)


def test_the_published_package_gives_the_same_matrices(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same inputs, to 1e-5, for all rows that are determined.

    Left out: rows that have special tokens for neighbours there, spelt as if they were words, or a blank; and
    those whose last neighbour is a tie, as that of ``the`` with and without a space before it.
    """
    package = pytest.importorskip("wechsel")
    fasttext = pytest.importorskip("fasttext")
    # It decomposes in float32, which leaves errors of 1e-4 in the map.
    monkeypatch.setattr(package, "orthogonal_procrustes", lambda x, y: orthogonal_procrustes(*np.float64([x, y])))
    english, german = tiny_tokenizer("unigram", "en"), tiny_tokenizer("unigram", "de")
    S = gauss(len(english), 16, seed=1)
    ours, theirs = read_static(real / "en"), read_static(real / "de")
    W = align(ours, theirs, read_dictionary(real / "en-de.txt"), name="d").W

    def compare(theirs_made: tuple[Any, Any], ours: StaticEmbeddings, theirs: StaticEmbeddings) -> None:
        expected, info = theirs_made
        source, target = subword_vectors(english, ours) @ W, subword_vectors(german, theirs)
        wider, found = find_neighbours(source, target, 11), find_neighbours(source, target, 10)
        none = torch.tensor([], dtype=torch.int64)
        new = wechsel(found, (none, none), lambda S, role: torch.zeros(len(german), 16))(S, "input")
        strange = {*english.all_special_tokens, "▁"}
        determined = []
        for id_, cosines in zip(found.targets.tolist(), wider.cosines, strict=True):
            neighbours = info.sources[german.convert_ids_to_tokens(id_)][0]
            if strange.isdisjoint(neighbours) and cosines[9] - cosines[10] > 1e-5:
                determined.append(id_)
        assert len(determined) > 0.7 * len(german)
        np.testing.assert_allclose(new[determined].numpy(), expected[determined], atol=1e-5)

    models = [fasttext.load_model(str(real / language / "fasttext.bin")) for language in ("en", "de")]
    oracle = package.WECHSEL(*models, bilingual_dictionary=str(real / "en-de.txt"))
    np.testing.assert_allclose(W.numpy(), oracle.source_transform(np.eye(24)), atol=1e-5)
    compare(oracle.apply(english, german, S.numpy()), ours, theirs)

    # Without n-grams: gensim's Word2Vec with the same words.
    models = []
    for static in (ours, theirs):
        model = Word2Vec(vector_size=24, min_count=1)
        model.build_vocab_from_freq({word: int(static.counts[row]) for word, row in static.index.items()})
        model.wv.vectors = static.matrix[[static.index[word] for word in model.wv.index_to_key]].numpy()
        models.append(model)
    oracle = package.WECHSEL(*models, bilingual_dictionary=str(real / "en-de.txt"))
    made = oracle.apply(english, german, S.numpy(), use_subword_info=False)
    compare(made, replace(ours, ngrams=None), replace(theirs, ngrams=None))
