"""Dictionaries: read as others write them, and induced from verses that say the same."""

from pathlib import Path

import pytest

from clpds.data.samples import chapters
from clpds.errors import UserError
from clpds.recipe import Dictionary
from clpds.vocabulary.dictionary import induce_dictionary, read_dictionary, translations


def test_tab_or_space_separates_and_blank_lines_do_not_count(tmp_path: Path) -> None:
    content = "\ufeffgod\tGott\n\nice cream\tEis\r\nword Wort\n"
    (tmp_path / "d.txt").write_bytes(content.encode())
    assert read_dictionary(tmp_path / "d.txt") == [("god", "Gott"), ("ice cream", "Eis"), ("word", "Wort")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"god\tGott\n\nbread\tBr\xf6t\n", "line 3 is not valid UTF-8"),
        (b"god Gott\none two three\n", "line 2: expected two words"),
        (b"god\t\n", "line 1: expected two words"),
        (b"\n \n", "is empty"),
    ],
)
def test_a_line_that_is_no_pair_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_dictionary(tmp_path / "d.txt")
    assert "d.txt" in str(caught.value)


@pytest.fixture(scope="module")
def verses() -> list[tuple[str, str]]:
    """The first 1,200 verses or so of two Bibles."""
    german = chapters("de")
    return [
        pair
        for chapter, english in list(chapters("en").items())[:45]
        if len(english) == len(german[chapter])
        for pair in zip(english, german[chapter], strict=True)
    ]


@pytest.fixture(scope="module")
def parallel(verses: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "en.txt").write_text("".join(f"{english}\n" for english, _ in verses), encoding="utf-8")
    (folder / "de.txt").write_text("".join(f"{german}\n" for _, german in verses), encoding="utf-8")
    (folder / "both.tsv").write_text("".join(f"{english}\t{german}\n" for english, german in verses), encoding="utf-8")
    return folder


def test_verses_give_a_dictionary_and_one_file_gives_what_two_do(parallel: Path, tmp_path: Path) -> None:
    two, one = tmp_path / "two.txt", tmp_path / "one.txt"
    induce_dictionary(Dictionary(parallel=(parallel / "en.txt", parallel / "de.txt"), out=two))
    induce_dictionary(Dictionary(parallel=(parallel / "both.tsv",), out=one))
    assert one.read_bytes() == two.read_bytes()
    pairs = read_dictionary(two)
    known = {("God", "Gott"), ("and", "und"), ("father", "Vater"), ("years", "Jahre"), ("brother", "Bruder")}
    assert known <= set(pairs)
    # Mutual best: no word is in two pairs.
    assert len({source for source, _ in pairs}) == len({target for _, target in pairs}) == len(pairs)


def test_verses_out_of_step_give_next_to_no_pairs(verses: list[tuple[str, str]]) -> None:
    aligned = translations(verses[:300])
    shifted = [(english, verses[(number * 7 + 100) % 300][1]) for number, (english, _) in enumerate(verses[:300])]
    assert len(set(aligned) & set(translations(shifted))) < len(aligned) / 5


def test_what_is_not_parallel_is_one_line_and_nothing_is_written(parallel: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Im Anfang\n")
    out = tmp_path / "out.txt"
    with pytest.raises(UserError, match=r"en\.txt has 1,\d+ lines and .*short\.txt 1"):
        induce_dictionary(Dictionary(parallel=(parallel / "en.txt", tmp_path / "short.txt"), out=out))
    with pytest.raises(UserError, match=r"en\.txt, line 1: expected two sentences"):
        induce_dictionary(Dictionary(parallel=(parallel / "en.txt",), out=out))
    with pytest.raises(UserError, match="are aligned 2 times"):
        induce_dictionary(Dictionary(parallel=(tmp_path / "short.txt", tmp_path / "short.txt"), out=out))
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(UserError, match=r"out\.txt exists"):
        induce_dictionary(Dictionary(parallel=(parallel / "both.tsv",), out=out))
