"""Static word embeddings: trained on real text, read from every format, damaged ones refused."""

import gzip
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gensim.models.fasttext import load_facebook_model

from clpds import provenance
from clpds.errors import UserError
from clpds.inspection.show import describe
from clpds.recipe import Embeddings
from clpds.vocabulary.fasttext import train_embeddings
from clpds.vocabulary.static import read_static, require_same_dimension
from tests.tiny import text

EPOCHS = {"dimension": 12, "epochs": 2, "min_count": 3}


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Embeddings:
    folder = tmp_path_factory.mktemp("static")
    (folder / "de.txt").write_text("\n".join(text("de", 12)), encoding="utf-8")
    step = Embeddings(input=(folder / "de.txt",), out=folder / "de", **EPOCHS)
    train_embeddings(step)
    return step


def test_words_come_by_frequency_with_their_counts(step: Embeddings) -> None:
    found = read_static(step.out)
    assert list(found.index.values()) == list(range(len(found.index)))
    assert found.counts.tolist() == sorted(found.counts.tolist(), reverse=True)
    assert found.counts.min() >= 3
    assert found.matrix.shape == (len(found.index), 12)
    assert found.counts[found.index["Gott"]] == sum(line.count("Gott") - line.count("Gotte") for line in text("de", 12))


def test_inspect_says_what_the_folder_is(step: Embeddings) -> None:
    rows = dict(describe(step.out))
    lines = [line for line in step.input[0].read_text(encoding="utf-8").splitlines() if line.strip()]
    assert rows["kind"] == "static word embeddings (fastText)"
    assert rows["words"] == f"{len(read_static(step.out).index):,}, 12 dimensions, from {len(lines)} documents"


def fnv1a(text: str) -> int:
    """fastText's hash of an n-gram: FNV-1a of 32 bits, the bytes taken as signed."""
    value = 2166136261
    for byte in text.encode():
        value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize("word", ["Gott", "Gottesmänner", "ä", "en"])
def test_a_word_is_the_mean_of_its_ngrams_as_fasttext_defines_it(word: str, step: Embeddings) -> None:
    model = load_facebook_model(str(step.out / "fasttext.bin"))
    bracketed = f"<{word}>"
    ngrams = [bracketed[i : i + n] for n in range(3, 7) for i in range(len(bracketed) - n + 1)]
    vectors = [model.wv.vectors_ngrams[fnv1a(ngram) % model.wv.bucket] for ngram in ngrams]
    if word in model.wv.key_to_index:
        vectors.append(model.wv.vectors_vocab[model.wv.key_to_index[word]])
    found = read_static(step.out).of_texts([word])[0]
    np.testing.assert_allclose(found.numpy(), np.mean(vectors, axis=0), atol=1e-6)


def test_the_same_text_and_seed_give_the_same_bytes_under_another_hash_seed(step: Embeddings, tmp_path: Path) -> None:
    arguments = ["--input", str(step.input[0]), "--out", str(tmp_path / "again")]
    arguments += ["--dimension", "12", "--epochs", "2", "--min-count", "3"]
    environment = {**os.environ, "PYTHONHASHSEED": "17"}
    subprocess.run([sys.executable, "-m", "clpds", "embeddings", *arguments], check=True, env=environment)
    assert (tmp_path / "again/fasttext.bin").read_bytes() == (step.out / "fasttext.bin").read_bytes()
    assert not provenance.verify(tmp_path / "again")
    train_embeddings(replace(step, out=tmp_path / "other", seed=1))
    assert (tmp_path / "other/fasttext.bin").read_bytes() != (step.out / "fasttext.bin").read_bytes()


def test_too_rare_words_are_one_line_and_nothing_is_written(step: Embeddings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no word occurs 100000 times in the text; lower --min-count"):
        train_embeddings(replace(step, out=tmp_path / "rare", min_count=100_000))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def vec(step: Embeddings) -> Path:
    path = step.out.parent / "de.vec"
    load_facebook_model(str(step.out / "fasttext.bin")).wv.save_word2vec_format(str(path))
    return path


def test_text_holds_the_same_words_plain_or_compressed_or_the_first_of_them(vec: Path, step: Embeddings) -> None:
    whole = read_static(step.out)
    (vec.parent / "de.vec.gz").write_bytes(gzip.compress(vec.read_bytes()))
    for path in (vec, vec.parent / "de.vec.gz"):
        found = read_static(path)
        assert list(found.index) == list(whole.index)
        torch.testing.assert_close(found.matrix, whole.matrix)
        assert found.ngrams is None
        assert not found.of_texts(["Gottesmänner"]).any()
    first = read_static(vec, limit=7)
    assert list(first.index) == list(whole.index)[:7]
    assert torch.equal(first.matrix, found.matrix[:7])


def test_words_twice_with_spaces_or_of_no_text_are_read_as_fasttext_means_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen in cc.ja.300.vec and wiki.en.vec; fastText ends each line in a space and separates by ASCII white space."""
    lines = ["Gott 1 2 ", "New York 3 4", "5 5 6", "\u00a0 7 8", "a\u2028b 9 10", "Gott 0 0", "Windows 95 11 12"]
    content = b"10 2\n" + b"\xe3\x81 0 0\n\xe3\x82 0 0\n" + "\n".join(lines).encode() + b"\ntab\t13\t14\r\n"
    (tmp_path / "odd.vec").write_bytes(content)
    found = read_static(tmp_path / "odd.vec")
    assert list(found.index) == ["Gott", "New York", "5", "\u00a0", "a\u2028b", "Windows 95", "tab"]
    assert found.matrix.flatten().tolist() == list(range(1, 15))
    assert found.counts.tolist() == [1 / rank for rank in range(1, 8)]
    assert "words are left out: 2 are no UTF-8 and 1 stand there again" in capsys.readouterr().err
    assert list(read_static(tmp_path / "odd.vec", limit=2).index) == ["Gott", "New York"]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_no_pickle_is_ever_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("words.model", "words.bin", "words.vec"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(UserError, match=f"{name} is no word embeddings"):
            read_static(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"the 0.1 0.2\nof 0.3 0.4\n", "first line is the number of words and the dimension"),
        (b"2 3\nthe 1 2 3\nof 1 2\n", "line 3: expected a word and 3 numbers, got 'of 1 2'"),
        (b"2 3\nthe 1 2 3\n4 5 6\n", "line 3: expected a word and 3 numbers, got '4 5 6'"),
        (b"2 2\nthe 1 2\nof 1 two\n", "line 3: expected a word and 2 numbers, got 'of 1 two'"),
        (b"2 2\nthe 1 2\n\n", "line 3: nothing there"),
        (b"3 2\nthe 1 2\nof 1 2\n", "line 4: nothing there, but line 1 says that there are more words"),
        (b"2 2\nthe 1 2\nof nan 2\n", "line 3: the vector of 'of' holds NaN"),
        (b"2 2\nthe 1 2 3\nof 1 2 3\n", "line 2: more than 2 numbers, which is the dimension that line 1 says"),
        (b"0 2\n", "holds no words"),
    ],
)
def test_what_is_no_embedding_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "words.vec").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_static(tmp_path / "words.vec")
    assert "words.vec" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fasttext_file_that_ends_early_is_one_line(step: Embeddings, tmp_path: Path) -> None:
    whole = (step.out / "fasttext.bin").read_bytes()
    for length in (6, 100, len(whole) // 4):
        (tmp_path / "cut.bin").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.bin is no word embeddings that can be read") as caught:
            read_static(tmp_path / "cut.bin")
        assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_of_something_else_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        read_static(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no fasttext\.bin"):
        read_static(tmp_path)


def test_other_dimensions_are_one_line_that_names_both(vec: Path, tmp_path: Path) -> None:
    (tmp_path / "other.vec").write_text("1 3\nthe 1 2 3\n")
    with pytest.raises(UserError, match=r"de\.vec has 12 dimensions and .*other\.vec 3; train both"):
        require_same_dimension(read_static(vec), read_static(tmp_path / "other.vec"))
