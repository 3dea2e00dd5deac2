"""Alignment against its definitions and on spaces whose true rotation is known."""

import itertools

import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor
from torch.nn.functional import cosine_similarity

from clpds.errors import UserError
from clpds.vocabulary import alignment as room
from clpds.vocabulary.alignment import align, best_match, procrustes, refine
from clpds.vocabulary.static import StaticEmbeddings


def gauss(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def static(matrix: Tensor, words: list[str]) -> StaticEmbeddings:
    counts = 1 / torch.arange(1, len(words) + 1, dtype=torch.float64)
    return StaticEmbeddings(words[0], {word: row for row, word in enumerate(words)}, matrix, counts)


def rotation(d: int, seed: int = 9) -> Tensor:
    return torch.linalg.qr(gauss(d, d, seed=seed)).Q


def planted(count: int = 400, d: int = 16, noise: float = 0.0) -> tuple[StaticEmbeddings, StaticEmbeddings, Tensor]:
    """Two languages whose words are the same points, rotated: ``s7`` means ``t7``."""
    x, R = gauss(count, d, seed=1), rotation(d)
    y = x @ R + noise * gauss(count, d, seed=2)
    return static(x, [f"s{n}" for n in range(count)]), static(y, [f"t{n}" for n in range(count)]), R


def test_procrustes_finds_the_rotation_and_is_orthogonal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clpds.vocabulary.blocks.BLOCK", 2**14)  # several blocks
    source, target, R = planted()
    torch.testing.assert_close(procrustes(source.matrix, target.matrix), R, atol=1e-5, rtol=0)
    W = procrustes(gauss(50, 16, seed=3), gauss(50, 16, seed=4))
    torch.testing.assert_close(W @ W.T, torch.eye(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("csls", [True, False])
def test_the_best_match_is_the_definitions(csls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clpds.vocabulary.blocks.BLOCK", 200)
    x, y = gauss(30, 8, seed=1), gauss(40, 8, seed=2) + 0.5
    cosines = cosine_similarity(x[:, None], y[None], dim=2)
    expected = cosines.clone()
    if csls:
        for i, j in itertools.product(range(30), range(40)):
            r_x = sorted(cosines[i].tolist())[-10:]
            r_y = sorted(cosines[:, j].tolist())[-10:]
            expected[i, j] = 2 * cosines[i, j] - sum(r_x) / 10 - sum(r_y) / 10
    queries = torch.tensor([3, 29, 0])
    indices, scores = best_match(x, y, csls=csls, queries=queries)
    torch.testing.assert_close(scores, expected[queries].max(dim=1).values)
    assert torch.equal(indices, expected[queries].argmax(dim=1))


def test_every_capitalisation_of_a_pair_takes_part() -> None:
    """As the published package does it, counted as often as it counts."""
    words_x, words_y = ["house", "House", *"abcdefghijklmnopqrstuvwxy"], ["haus", "Haus", *"abcdefghijklmnopqrstuvwxy"]
    x, y = gauss(27, 6, seed=1), gauss(27, 6, seed=2)
    pairs = [("house", "Haus"), *((letter, letter) for letter in "abcdefghijklmnopqrstuvwxy")]
    left, right = [], []
    for a, b in pairs:
        for c, d in itertools.product((a, a.lower(), a.title()), (b, b.lower(), b.title())):
            if c in words_x and d in words_y:
                left.append(x[words_x.index(c)])
                right.append(y[words_y.index(d)])
    expected, _ = orthogonal_procrustes(torch.stack(left).numpy(), torch.stack(right).numpy())
    found = align(static(x, words_x), static(y, words_y), pairs, name="d.txt")
    torch.testing.assert_close(found.W, torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_held_out_words_are_found_in_the_true_space_and_not_learnt_by_heart() -> None:
    source, target, _ = planted(count=300)
    true = align(source, target, [(f"s{n}", f"t{n}") for n in range(300)], name="d.txt")
    assert (true.pairs, true.asked, true.precision, true.precision_csls) == (300, 30, 1.0, 1.0)
    # With 300 dimensions any 270 pairs can be fitted; those that were not fitted tell.
    x, y = gauss(300, 300, seed=3), gauss(300, 300, seed=4)
    words = [f"S{n}" for n in range(300)]
    wrong = align(static(x, words), static(y, words), [(word, word) for word in words], name="d.txt")
    assert wrong.precision_csls < 0.1
    assert best_match(x @ wrong.W, y, csls=False)[0].eq(torch.arange(300)).float().mean() > 0.9


def test_refining_goes_from_a_few_pairs_to_the_whole_space() -> None:
    source, target, R = planted(count=600, d=16, noise=0.3)
    W = procrustes(source.matrix[:20] + gauss(20, 16, seed=5), target.matrix[:20])
    better = refine(source.matrix, target.matrix, W, rounds=5)
    assert (better - R).norm() < (W - R).norm() / 3
    start, refined = (float(best_match(source.matrix @ map_, target.matrix)[1].mean()) for map_ in (W, better))
    assert refined > start


def test_a_round_that_is_worse_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, R = planted()
    monkeypatch.setattr(room, "procrustes", lambda x, y: rotation(x.shape[1], seed=11))
    assert torch.equal(refine(source.matrix, target.matrix, R, rounds=3), R)


def test_a_dictionary_of_other_languages_is_one_line() -> None:
    source, target, _ = planted()
    dictionary = [(f"s{n}", f"t{n}") for n in range(3)] + [(f"s{n}", f"mot{n}") for n in range(4997)]
    with pytest.raises(UserError, match=r"only 3 of 5,000 pairs of en-fr\.txt are in both s0 and t0") as caught:
        align(source, target, dictionary, name="en-fr.txt")
    assert "\n" not in str(caught.value)


def test_a_dictionary_that_shares_but_names_is_one_line_and_a_large_one_is_used() -> None:
    """Names are the same word in both; a dictionary of many more words than the embeddings has translations too."""
    x = gauss(300, 8, seed=1)
    names, unknown = [f"name{n}" for n in range(30)], [(f"x{n}", f"mot{n}") for n in range(5000)]
    source = static(x, names + [f"s{n}" for n in range(270)])
    target = static(x, names + [f"t{n}" for n in range(270)])
    same = [(name.title(), name) for name in names]
    with pytest.raises(UserError, match=r"only 50 of 5,050 pairs of d\.txt are in both .*, 30 of them the same word"):
        align(source, target, same + [(f"s{n}", f"t{n}") for n in range(20)] + unknown, name="d.txt")
    assert align(source, target, same + [(f"s{n}", f"t{n}") for n in range(60)] + unknown, name="d.txt").pairs == 90


def test_other_dimensions_cannot_be_aligned() -> None:
    source, _, _ = planted(d=16)
    _, target, _ = planted(d=8)
    with pytest.raises(UserError, match="s0 has 16 dimensions and t0 8"):
        align(source, target, [("s0", "t0")], name="d.txt")
