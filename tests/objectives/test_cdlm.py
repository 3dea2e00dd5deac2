"""A sentence out of its translation: what is predicted, what it costs, and that the alignment is of use."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clpds.data.blocks import IGNORED
from clpds.data.pairs import Pairs, open_pairs
from clpds.data.prepare_pairs import prepare_pairs
from clpds.data.samples import chapters
from clpds.errors import UserError
from clpds.objectives.cdlm import Cdlm
from clpds.objectives.masked import Masked
from clpds.recipe import Pairs as Step
from clpds.vocabulary.pieces import special_tokens
from tests.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer("wordpiece", "de", 700)
OBJECTIVE = Cdlm(Masked.of(TOKENIZER, 0.15, "tiny"))


def write_pairs(folder: Path, *, reverse: bool = False) -> Path:
    """The folder of a few verses in English and German."""
    english, german = (chapters(language) for language in ("en", "de"))
    keys = list(english)[:6]
    lines = [f"{e}\t{g}\n" for key in keys for e, g in zip(english[key], german[key], strict=False)]
    (folder / "verses.tsv").write_text("".join(lines))
    TOKENIZER.save_pretrained(folder / "tokenizer")
    step = Step(
        parallel=(folder / "verses.tsv",),
        tokenizer=folder / "tokenizer",
        sequence_length=96,
        out=folder / f"pairs{reverse}",
        reverse=reverse,
        validation_fraction=0.1,
    )
    prepare_pairs(step)
    return step.out


@pytest.fixture(scope="module", params=[False, True], ids=["to the new", "from the new"])
def pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return open_pairs(write_pairs(tmp_path_factory.mktemp("cdlm"), reverse=request.param), "train")


def test_all_of_a_translation_is_predicted_and_gaps_of_a_sentence(pairs: Pairs) -> None:
    count = len(pairs) // 2
    indices = [*range(40), *range(count, count + 40)]
    raw, batch = pairs.batch(indices), OBJECTIVE.prepare(pairs.batch(indices), range(7, 87), 5)
    width = batch.input_ids.shape[1]
    assert width == max(int(raw.attention_mask.sum(1).max()), int(raw.target_mask.sum(1).max())) + 1
    assert torch.equal(batch.input_ids[:40], raw.input_ids[:40, :width])  # nothing is hidden from a source
    assert torch.equal(batch.labels[:40], raw.labels[:40, :width])
    assert torch.equal(batch.labels[:40] != IGNORED, batch.target_mask[:40])  # [CLS] and [SEP] too, padding not
    hidden = batch.labels[40:] != IGNORED
    assert torch.equal(batch.labels[40:][hidden], raw.input_ids[40:, :width][hidden])
    assert torch.equal(batch.input_ids[40:][~hidden], raw.input_ids[40:, :width][~hidden])
    assert not set(batch.labels[40:][hidden].tolist()) & set(special_tokens(TOKENIZER))
    ordinary = int(batch.attention_mask[40:].sum()) - 2 * 40
    assert 0.1 < int(hidden.sum()) / ordinary < 0.2
    assert OBJECTIVE.count(batch) == int(batch.target_mask[:40].sum()) + int(hidden.sum())

    alone = [OBJECTIVE.prepare(pairs.batch([index]), [7 + row], 5) for row, index in enumerate(indices)]
    for row, one in enumerate(alone):  # the same in any batch
        assert torch.equal(one.input_ids[0], batch.input_ids[row, : one.input_ids.shape[1]])
        assert torch.equal(one.labels[0], batch.labels[row, : one.labels.shape[1]])
    assert not torch.equal(OBJECTIVE.prepare(raw, range(7, 87), 6).labels, batch.labels)


@pytest.mark.parametrize("shape", ["trelm-bert", "trelm-roberta"])
def test_the_loss_is_that_of_each_sentence_alone(shape: str, pairs: Pairs) -> None:
    model = tiny_model(shape, 700, pad_token_id=TOKENIZER.pad_token_id)
    OBJECTIVE.check(model)
    count = len(pairs) // 2
    batch = OBJECTIVE.prepare(pairs.batch([3, count + 3, 8]), [1, 2, 3], 0)
    expected = torch.zeros(())
    with torch.no_grad():
        for ids, read, old, alignment, written, new, labels, translated in zip(*batch, strict=True):
            source = ids[: int(read.sum()) + int(translated)]  # with the dummy
            size = int(written.sum())
            logits = model(
                input_ids=source[None],
                attention_mask=read[None, : len(source)],
                language_ids=old[None],
                alignment=alignment[None, :size] if translated else None,
                target_language_ids=new[None],
                target_attention_mask=torch.ones(1, size) if translated else None,
            ).logits[0]
            expected += cross_entropy(logits[:size], labels[:size], reduction="sum")
        found = OBJECTIVE.loss_sum(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_a_model_without_a_trilayer_is_refused() -> None:
    with pytest.raises(UserError, match="BertForMaskedLM has no TRILayer, which cdlm trains; make a model with"):
        OBJECTIVE.check(tiny_model("bert", 700))


def cipher_loss(pairs: Pairs, *, shuffled: bool) -> float:
    """Mean loss of the translations in the last ten of 120 steps."""
    torch.manual_seed(0)
    model = tiny_model("trelm-bert", 700, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses: list[float] = []
    for step in range(120):
        batch = OBJECTIVE.prepare(pairs.batch(range(step * 16 % 480, step * 16 % 480 + 16)), range(16), step)
        if shuffled:
            batch = batch._replace(alignment=_shuffle(batch.alignment, batch.target_mask, step))
        loss = OBJECTIVE.loss_sum(model, batch) / OBJECTIVE.count(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


def _shuffle(alignment: Tensor, mask: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shuffled = alignment.clone()
    for row, size in enumerate(mask.sum(dim=1).tolist()):
        shuffled[row, :size] = alignment[row, :size][torch.randperm(size, generator=generator)]
    return shuffled


def test_a_cipher_is_learnt_by_its_alignment(tmp_path: Path) -> None:
    """Every word has one translation, and the order is turned round: what a place starts from says what is there."""
    words = [token for token in TOKENIZER.get_vocab() if token.isalpha()][:80]
    secret = dict(zip(words, words[1:] + words[:1], strict=True))
    draw = random.Random(0)
    lines, links = [], []
    for _ in range(480):
        sentence = draw.choices(words, k=draw.randint(4, 9))
        lines.append(f"{' '.join(sentence)}\t{' '.join(secret[word] for word in reversed(sentence))}\n")
        links.append(" ".join(f"{len(sentence) - 1 - place}-{place}" for place in range(len(sentence))) + "\n")
    (tmp_path / "lines.tsv").write_text("".join(lines))
    (tmp_path / "links").write_text("".join(links))
    TOKENIZER.save_pretrained(tmp_path / "tokenizer")
    step = Step(
        parallel=(tmp_path / "lines.tsv",),
        tokenizer=tmp_path / "tokenizer",
        sequence_length=16,
        out=tmp_path / "pairs",
        alignments=tmp_path / "links",
        validation_fraction=0.0,
    )
    prepare_pairs(step)
    pairs = open_pairs(step.out, "train")
    aligned, shuffled = (cipher_loss(pairs, shuffled=shuffled) for shuffled in (False, True))
    assert aligned < 0.5 * shuffled
