"""Training tokenizers: what comes out, that it is the same everywhere, and what is refused."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from clpds import provenance, recipe
from clpds.errors import UserError
from clpds.vocabulary import train
from clpds.vocabulary.overlap import overlap
from clpds.vocabulary.roles import special_ids
from clpds.vocabulary.tokenizer import load_tokenizer, require_same
from clpds.vocabulary.train import train_tokenizer
from tests.tiny import text

KINDS = ("bpe", "unigram", "wordpiece")
VERSE = "Und Gott sprach: Es werde Licht! Und es ward Licht für die Söhne."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "de.txt"
    path.write_text("\n".join(text()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(corpus: Path) -> dict[str, Path]:
    return {kind: _train(corpus, kind, corpus.parent / kind) for kind in KINDS}


def _train(corpus: Path, kind: str, out: Path, vocab_size: int = 1000) -> Path:
    train_tokenizer(recipe.Tokenizer(input=(corpus,), kind=kind, vocab_size=vocab_size, out=out))  # type: ignore[arg-type]
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_it_with_the_same_ids(kind: str, trained: dict[str, Path]) -> None:
    ours, theirs = load_tokenizer(trained[kind]), AutoTokenizer.from_pretrained(trained[kind])
    require_same(ours, theirs, "ours", "theirs")
    assert len(theirs) == 1000
    assert theirs.model_input_names == ours.model_input_names
    assert ours(VERSE).input_ids == theirs(VERSE).input_ids
    assert theirs.unk_token_id is None or theirs.unk_token_id not in theirs(VERSE).input_ids
    # transformers 4 does not know TokenizersBackend, the name that 5 writes.
    assert '"tokenizer_class": "PreTrainedTokenizerFast"' in (trained[kind] / "tokenizer_config.json").read_text()
    assert provenance.verify(trained[kind]) == []
    assert provenance.read(trained[kind])["tokens"] == 1000  # type: ignore[index]


def test_byte_level_bpe_gives_every_text_back(trained: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(trained["bpe"])

    @settings(deadline=None)
    @given(st.text())
    def check(anything: str) -> None:
        assert tokenizer.decode(tokenizer(anything).input_ids) == anything

    check()


def test_unigram_and_wordpiece_give_plain_text_back(trained: dict[str, Path]) -> None:
    unigram, wordpiece = load_tokenizer(trained["unigram"]), load_tokenizer(trained["wordpiece"])
    assert unigram.decode(unigram(VERSE).input_ids, skip_special_tokens=True) == VERSE
    assert unigram("  Gott\n\tﬁnster ").input_ids == unigram("Gott finster").input_ids  # NFKC, one space
    words = "Gott sprach und die Söhne"
    assert wordpiece.decode(wordpiece(words).input_ids, skip_special_tokens=True) == words


def test_each_kind_has_the_special_tokens_of_its_users(trained: dict[str, Path]) -> None:
    bpe, unigram, wordpiece = (load_tokenizer(trained[kind]) for kind in KINDS)
    assert special_ids(bpe) == {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    assert bpe.convert_ids_to_tokens(range(3)) == ["<s>", "</s>", "<pad>"]
    assert unigram.convert_ids_to_tokens(range(5)) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert unigram("Gott").input_ids[0] == unigram.bos_token_id
    assert unigram("Gott").input_ids[-1] == unigram.eos_token_id
    assert wordpiece.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pair = wordpiece("Gott", "sprach")
    assert wordpiece.decode(pair.input_ids) == "[CLS] Gott [SEP] sprach [SEP]"
    assert pair.token_type_ids == [0, 0, 0, 1, 1]
    assert "token_type_ids" not in bpe("Gott")  # generate() of most causal models refuses them


def test_bpe_keeps_marks_inside_words_and_knows_all_bytes(trained: dict[str, Path]) -> None:
    bpe = load_tokenizer(trained["bpe"])
    words = [word for word, _ in bpe.backend_tokenizer.pre_tokenizer.pre_tokenize_str("हिन्दी भाषा 12!")]
    assert len(words) == 4
    assert overlap(bpe, bpe).how["byte"] == 128


def test_the_bytes_depend_on_no_hash_seed_and_no_thread_count(
    corpus: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from clpds import recipe; from clpds.vocabulary.train import *\n"
        f"for kind in {KINDS}: train_tokenizer(recipe.Tokenizer("
        f"input=(Path({str(corpus)!r}),), kind=kind, vocab_size=1000, out=Path({str(tmp_path)!r}) / kind))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1", "RAYON_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    for kind in KINDS:
        ours = {file.name: file.read_bytes() for file in trained[kind].iterdir()}
        assert {file.name: file.read_bytes() for file in (tmp_path / kind).iterdir()} == ours


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_vocabulary_is_named_and_enough(kind: str, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"vocab_size is 20, but {kind} needs \d+ at least") as error:
        _train(corpus, kind, tmp_path / "out", 20)
    least = int(str(error.value).split(" needs ")[1].split()[0])
    with pytest.raises(UserError, match=f"needs {least} at least"):
        _train(corpus, kind, tmp_path / "out", least - 1)
    assert list(tmp_path.iterdir()) == []
    assert len(load_tokenizer(_train(corpus, kind, tmp_path / "out", least))) == least


def _unknown(folder: Path, texts: list[str]) -> float:
    """Share of the texts' characters that are nothing to the tokenizer."""
    backend = load_tokenizer(folder).backend_tokenizer
    unknown = {backend.token_to_id(token) for token in ("<unk>", "[UNK]")}
    lost = 0
    for line in texts:
        encoding = backend.encode(line, add_special_tokens=False)
        lost += sum(
            end - start for id_, (start, end) in zip(encoding.ids, encoding.offsets, strict=True) if id_ in unknown
        )
    return lost / sum(map(len, texts))


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_stretches_without_white_space_are_learnt_and_known(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chinese and Thai: SentencePiece drops what is beyond 4,192 bytes, WordPiece has no token for 100 letters."""
    letters = "กขคงจฉชซญดตถทธนบปผพฟมยรลวสหอฮ"
    draw = random.Random(0)
    words = ["".join(draw.choices(letters, k=4)) for _ in range(60)]
    lines = ["".join(draw.choices(words, k=600)) for _ in range(5)]  # 2,400 letters, 7,200 bytes
    lines[0] = f"{lines[0][:1200]}☃{lines[0][1200:]}"  # too rare for a token: what is round it is learnt
    lines.append("a " * 3000)
    corpus = tmp_path / "th.txt"
    corpus.write_text("\n".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        if kind == "unigram":  # in WordPiece a letter without a token makes all of its word unknown
            patch.setattr(train, "COVERAGE", 0.9999)
        out = _train(corpus, kind, tmp_path / "out", 200)
    vocabulary = load_tokenizer(out).get_vocab()
    prefix = "##" if kind == "wordpiece" else ""
    assert sum(prefix + word in vocabulary for word in words) > 10
    assert _unknown(out, lines) < 0.001
    assert "of the text (by bytes, in 6 documents) is unknown to it" in capsys.readouterr().out
    assert provenance.read(out)["unknown_share"] < 0.001  # type: ignore[index]


def test_wordpiece_keeps_what_scripts_are_written_with(tmp_path: Path) -> None:
    """BERT's own normalizer deletes all characters of format: words of Khmer run together, Persian is respelt."""
    written = ["ភាសា\u200bខ្មែរ", "نمی\u200cشود", "क्\u200dष", "\u06dd\u0661"]
    corpus = tmp_path / "words.txt"
    corpus.write_text("\n".join(written * 20), encoding="utf-8")
    tokenizer = load_tokenizer(_train(corpus, "wordpiece", tmp_path / "out", 200))
    for word in written:
        assert "".join(token.removeprefix("##") for token in tokenizer.tokenize(word)) == word
    assert tokenizer.tokenize("\x00 \x07\x85\ufffd") == []  # what is no text in any script still goes
    assert tokenizer.tokenize(f"{written[0]}\t{written[0]}") == tokenizer.tokenize(written[0]) * 2


@pytest.mark.parametrize("kind", KINDS)
def test_too_little_text_gives_fewer_tokens_and_says_so(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("Am Anfang schuf Gott die Himmel und die Erde.\n", encoding="utf-8")
    out = _train(tmp_path / "short.txt", kind, tmp_path / "out")
    tokens = len(load_tokenizer(out))
    assert tokens < 1000
    assert capsys.readouterr().err == f"{out}: the text yields {tokens} tokens, fewer than 1,000\n"


def test_rare_characters_get_no_token(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(2 * corpus.read_text(encoding="utf-8") + "\nꙮ", encoding="utf-8")
    for kind in ("unigram", "wordpiece"):
        tokenizer = load_tokenizer(_train(tmp_path / "more.txt", kind, tmp_path / kind))
        assert not [token for token in tokenizer.get_vocab() if "ꙮ" in token]
        assert tokenizer.unk_token_id in tokenizer("ꙮ").input_ids


def test_no_text_and_an_existing_folder_are_refused(corpus: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"empty\.txt"):
        _train(tmp_path / "empty.txt", "bpe", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="exists"):
        _train(corpus, "bpe", trained["bpe"])
