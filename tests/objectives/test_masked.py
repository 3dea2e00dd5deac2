"""What is hidden from a masked language model, and the loss of it."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from clpds.data.blocks import IGNORED, Batch, Blocks, open_blocks
from clpds.errors import UserError
from clpds.objectives.masked import Masked
from clpds.vocabulary.pieces import special_tokens
from tests.tiny import tiny_model, tiny_tokenizer
from tests.training.stages import write_inputs

TOKENIZER = tiny_tokenizer("wordpiece")


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    inputs = write_inputs(tmp_path_factory.mktemp("masked"), shape="bert", family="wordpiece")
    return open_blocks(inputs["data"], "train")


@pytest.fixture(scope="module")
def ends_padded(tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    inputs = write_inputs(tmp_path_factory.mktemp("padded"), shape="bert", family="wordpiece", length=100)
    return open_blocks(inputs["data"], "validation")


def objective(share: float = 0.15) -> Masked:
    return Masked.of(TOKENIZER, share, "tiny")


def test_fifteen_in_a_hundred_and_eighty_ten_ten(blocks: Blocks) -> None:
    batch = blocks.batch(range(len(blocks)))
    parts = [objective().prepare(batch, range(k * len(blocks), (k + 1) * len(blocks)), 5) for k in range(20)]
    ordinary = torch.from_numpy(np.isin(batch.input_ids, objective().ordinary))
    chosen = torch.cat([part.labels != IGNORED for part in parts])
    before = batch.input_ids.repeat(20, 1)
    after = torch.cat([part.input_ids for part in parts])
    assert chosen.sum() / (20 * ordinary.sum()) == pytest.approx(0.15, abs=0.002)
    masked = after[chosen] == TOKENIZER.mask_token_id
    kept = after[chosen] == before[chosen]
    number = int(chosen.sum())
    deviation = 3 * (0.25 / number) ** 0.5
    assert masked.float().mean() == pytest.approx(0.8, abs=deviation)
    assert kept.float().mean() == pytest.approx(0.1 + 0.1 / len(objective().ordinary), abs=deviation)
    drawn = after[chosen][~masked & ~kept]
    assert set(drawn.tolist()) <= set(objective().ordinary.tolist())
    assert len(drawn.unique()) > 0.5 * len(objective().ordinary)
    assert torch.equal(after[~chosen], before[~chosen])
    assert torch.equal(torch.cat([part.labels for part in parts])[chosen], before[chosen])
    assert all(torch.equal(part.position_ids, batch.position_ids) for part in parts)


def test_special_tokens_padding_and_lonely_tokens_are_left_alone(ends_padded: Blocks) -> None:
    last = ends_padded.batch([len(ends_padded) - 1])
    batch = Batch(*(tensor.clone() for tensor in last))
    padding = int((batch.input_ids[0] != TOKENIZER.pad_token_id).nonzero()[-1]) + 1
    assert padding < 99
    batch.input_ids[0, padding:] = 77  # padding is known by its place, not by its id
    batch.position_ids[0, 5], batch.labels[0, 5] = 0, IGNORED  # a document of one token between two
    batch.position_ids[0, 6:12], batch.labels[0, 6] = torch.arange(6), IGNORED
    everything = objective(1.0).prepare(batch, [0], 0)
    chosen = everything.labels[0] != IGNORED
    special = torch.tensor([int(id_) in special_tokens(TOKENIZER) for id_ in batch.input_ids[0]])
    expected = ~special
    expected[padding:] = expected[5] = False
    assert special[:padding].any()
    assert torch.equal(chosen, expected)  # all that can be, the first tokens of documents among them


def test_a_function_of_seed_and_sample_alone(blocks: Blocks) -> None:
    together = objective().prepare(blocks.batch([3, 4, 3]), [10, 11, 12], 7)
    for row, (block, sample) in enumerate([(3, 10), (4, 11), (3, 12)]):
        single = objective().prepare(blocks.batch([block]), [sample], 7)
        assert torch.equal(single.input_ids[0], together.input_ids[row])
        assert torch.equal(single.labels[0], together.labels[row])
    assert not torch.equal(together.labels[0], together.labels[2])  # the block comes again, hidden otherwise
    assert not torch.equal(objective().prepare(blocks.batch([3]), [10], 8).labels[0], together.labels[0])


@pytest.mark.parametrize("shape", ["bert", "roberta"])
def test_the_loss_is_that_of_each_document_alone(shape: str, ends_padded: Blocks) -> None:
    model = tiny_model(shape, len(TOKENIZER), pad_token_id=0)
    last = len(ends_padded) - 1
    batch = objective().prepare(ends_padded.batch([0, last]), [0, last], 1)
    expected, count = torch.zeros(()), 0
    for ids, positions, labels in zip(*batch[:3], strict=True):
        starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
        for start, stop in pairwise(starts):
            logits = model(input_ids=ids[None, start:stop], attention_mask=torch.ones(1, stop - start)).logits[0]
            expected = expected + torch.nn.functional.cross_entropy(logits, labels[start:stop], reduction="sum")
            count += int((labels[start:stop] != IGNORED).sum())
    assert objective().count(batch) == count
    torch.testing.assert_close(objective().loss_sum(model, batch), expected, rtol=1e-5, atol=1e-4)


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    with pytest.raises(UserError, match="no mask token"):
        Masked.of(tiny_tokenizer("byte_bpe"), 0.15, "x")
