"""A toy language brought over: embeddings learnt under the mini-model serve the primary, which never saw them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from clpds.data.blocks import Batch
from clpds.models.minijoint import BertMiniJointConfig, BertMiniJointForMaskedLM
from clpds.objectives.masked import Masked
from clpds.objectives.minijoint import MiniJointMasked
from clpds.recipe import Init
from clpds.training.engine import freeze
from clpds.transfer.init import init
from clpds.vocabulary.roles import special_ids
from tests.tiny import save_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer("wordpiece")
WORDS = np.arange(100, 150)  # of the toy language: ten topics of five words
TOPIC = np.log(5)  # nats of a word whose topic is known
LENGTH, ROWS = 12, 32


def sentences(step: int, order: Tensor) -> Batch:
    """Sentences of one topic each, their words under the ids that ``order`` gives them."""
    random = np.random.default_rng(step)
    topics = random.integers(0, 10, (ROWS, 1))
    ids = order[torch.from_numpy(WORDS[5 * topics + random.integers(0, 5, (ROWS, LENGTH))])]
    positions = torch.arange(LENGTH).repeat(ROWS, 1)
    return Batch(ids, positions, torch.where(positions == 0, -100, ids), torch.ones(ROWS, dtype=torch.long))


def train(model: PreTrainedModel, objective: Masked, order: Tensor, steps: int, lr: float) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for step in range(steps):
        batch = objective.prepare(sentences(step, order), range(ROWS * step, ROWS * (step + 1)), 0)
        optimizer.zero_grad()
        (objective.loss_sum(model, batch) / objective.count(batch)).backward()
        optimizer.step()


@torch.no_grad()
def loss(model: PreTrainedModel, objective: Masked, order: Tensor) -> float:
    model.eval()
    batches = [objective.prepare(sentences(10**6 + k, order), range(ROWS), k) for k in range(8)]
    return sum(float(objective.loss_sum(model, b)) for b in batches) / sum(objective.count(b) for b in batches)


def test_embeddings_learnt_under_the_mini_model_serve_the_primary(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertMiniJointConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        mini_layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.1, **special_ids(TOKENIZER),
    )  # fmt: skip
    mask, same = TOKENIZER.mask_token_id, torch.arange(len(TOKENIZER))
    masked = Masked(mask, WORDS, 0.2)
    joint = BertMiniJointForMaskedLM(config)
    train(joint, MiniJointMasked(mask, WORDS, 0.2, mini_weight=0.5), same, 200, 3e-3)
    folder = save_model(tmp_path / "joint", joint, TOKENIZER)
    init(Init(method="primary", source=folder, out=tmp_path / "primary"))
    init(Init(method="minimodel", source=folder, take=2, out=tmp_path / "mini"))
    primary, mini = (AutoModelForMaskedLM.from_pretrained(tmp_path / name) for name in ("primary", "mini"))
    assert loss(primary, masked, same) < TOPIC + 0.2
    assert loss(mini, masked, same) < TOPIC + 0.2

    order = same.clone()
    order[WORDS] = torch.from_numpy(np.random.default_rng(1).permutation(np.arange(200, 250)))  # words never seen
    other = Masked(mask, np.sort(order[WORDS].numpy()), 0.2)
    before = loss(primary, other, order)
    freeze(mini, ("*word_embeddings*", "cls.predictions.bias"))
    train(mini, other, order, 200, 2e-2)
    learnt = {name for name, parameter in mini.named_parameters() if parameter.grad is not None}
    assert learnt == {"bert.embeddings.word_embeddings.weight", "cls.predictions.bias"}
    init(Init(method="plug", source=tmp_path / "primary", embeddings=save_model(tmp_path / "adapted", mini, TOKENIZER),
              out=tmp_path / "plugged"))  # fmt: skip
    after = loss(AutoModelForMaskedLM.from_pretrained(tmp_path / "plugged"), other, order)
    assert loss(mini, other, order) < TOPIC + 0.3
    assert after < TOPIC + 0.8 < np.log(len(WORDS))  # the primary knows topics of a language it never saw
    assert before > np.log(len(WORDS))  # with embeddings that nobody learnt
