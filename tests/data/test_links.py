"""Word alignments, read, made and carried to pieces."""

from pathlib import Path

import pytest

from clpds.data.links import align_targets, align_words, carry, read_links
from clpds.errors import UserError
from clpds.vocabulary.words import spans


def test_the_last_link_wins_and_the_unaligned_go_to_the_dummy() -> None:
    assert align_targets([(0, 0), (2, 1), (1, 1), (2, 3), (2, 4)], 3, 5) == [0, 1, 3, 2, 2]  # more targets than sources
    assert align_targets([], 4, 2) == [4, 4]


def test_links_are_those_of_the_line(tmp_path: Path) -> None:
    (tmp_path / "links").write_text("0-0 12-3\n\n1-0\n")
    assert list(read_links(tmp_path / "links")) == [[(0, 0), (12, 3)], [], [(1, 0)]]
    (tmp_path / "links").write_text("0-0\n0-0 1?2\n")
    with pytest.raises(UserError, match=r"links, line 2: '1\?2' is no link such as 3-4"):
        list(read_links(tmp_path / "links"))


def test_pieces_of_a_word_go_with_those_of_its_partner_in_order() -> None:
    source, target = "un  believable, yes", "unglaublich ja doch"
    words = spans(source), spans(target)
    assert [source[a:b] for a, b in words[0]] == ["un", "believable", ",", "yes"]
    pieces = (
        [(0, 2), (2, 4), (4, 10), (10, 14), (14, 15), (15, 19)],  # un | space | believ able | , | space and yes
        [(0, 2), (2, 6), (6, 11), (11, 14), (15, 17), (17, 19)],  # un glau blich | space and ja | do ch
    )
    links = [(1, 0), (3, 1)]
    assert carry(links, words, pieces) == [2, 3, 3, 5, 6, 6]  # two pieces for three: the last again; 6 is none
    assert carry([(0, 0), (2, 2)], words, pieces) == [0, 0, 0, 6, 4, 4]


def test_words_that_white_space_separates_are_those_of_a_file_of_links() -> None:
    text = "He said: 'no'."
    assert [text[a:b] for a, b in spans(text, written=True)] == ["He", "said:", "'no'."]
    assert [text[a:b] for a, b in spans(text)] == ["He", "said", ":", "'", "no", "'."]


def test_fast_align_finds_words_that_always_occur_together() -> None:
    sentences = [
        ("the house is big", "groß das Haus ist"),
        ("the house", "das Haus"),
        ("big is the man", "der Mann ist groß"),
        ("the man", "der Mann"),
        ("is", "ist"),
    ] * 10
    texts = [(source.split(), target.split()) for source, target in sentences]
    texts.insert(3, ([], ["das"]))
    links = list(align_words(texts))
    assert len(links) == len(texts)
    assert links[3] == []
    assert {(1, 2), (2, 3)} <= set(links[0])
    assert all(len({target for _, target in line}) == len(line) for line in links)
    assert list(align_words(texts)) == links
