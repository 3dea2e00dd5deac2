"""TRILayer encoders against the blocks of transformers that they are made of, run one by one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedModel

from clpds.checkpoint import open_checkpoint
from clpds.errors import UserError
from clpds.models.trelm import TrelmBertConfig, TrelmBertModel
from tests.tiny import TRELM, save_model, tiny_model

WORDS = 50
PADDING = 2  # id
N = 9
SHAPES = pytest.mark.parametrize("shape", TRELM)


def sentence(rows: int = 2, length: int = N, seed: int = 1) -> Tensor:
    return torch.randint(3, WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model: PreTrainedModel, ids: Tensor, **inputs: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits


def first_position(model: PreTrainedModel) -> int:
    return PADDING + 1 if model.config.model_type == "trelm-roberta" else 0


def naive(
    model: PreTrainedModel, ids: Tensor, alignment: list[int], source: int, target: int, padding: int = 0
) -> Tensor:
    """Logits of one sentence by the formulas: no masks, the padding at the target's end cut off."""
    body = model.base_model
    table, blocks = body.embeddings, body.encoder.layer
    start = first_position(model)
    length = len(alignment) - padding
    with torch.no_grad():
        states = table.word_embeddings.weight[ids] + table.token_type_embeddings.weight[0]
        states = states + table.position_embeddings.weight[start : start + len(ids)]
        states = table.LayerNorm(states + table.language_embeddings.weight[source])[None]
        for block in blocks[: len(blocks) // 2]:
            states = block(states)
        states = torch.stack([states[0, place] for place in alignment[:length]])
        states = states + table.position_embeddings.weight[start : start + length]
        states = body.encoder.trilayer((states + table.language_embeddings.weight[target])[None])
        for block in blocks[len(blocks) // 2 :]:
            states = block(states)
        head = model.cls if hasattr(model, "cls") else model.lm_head
        return head(states)[0]


@SHAPES
def test_states_are_put_into_the_targets_order_and_go_on_as_its_language(shape: str) -> None:
    model = tiny_model(shape, WORDS)
    ids = sentence()
    alignment = torch.tensor([[3, 0, 0, 8, 1], [5, 5, 5, 2, 7]])  # shorter, with repetitions
    found = logits(
        model, ids, alignment=alignment, language_ids=torch.tensor([0, 1]), target_language_ids=torch.tensor([1, 0])
    )
    for row, (source, target) in enumerate(((0, 1), (1, 0))):
        expected = naive(model, ids[row], alignment[row].tolist(), source, target)
        torch.testing.assert_close(found[row], expected, atol=2e-6, rtol=1e-5)


@SHAPES
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_of_either_side_changes_nothing(shape: str, attention: str) -> None:
    """The masks: that of the source in the lower half, that of the target from the TRILayer on."""
    model = tiny_model(shape, WORDS, attn_implementation=attention)
    ids = sentence()
    alignment = torch.tensor([[3, 0, 0, 8, 1, 2, 0, 0, 8], [0, 1, 2, 4, 4, 8, 8, 8, 8]])
    lengths, targets = (9, 5), (7, 5)  # the target is shorter than the source, and longer
    target_mask = torch.tensor([[int(place < length) for place in range(N)] for length in targets])
    mask = torch.tensor([[int(place < length) for place in range(N)] for length in lengths])
    ids = torch.where(mask == 1, ids, PADDING)
    alone = [naive(model, ids[row, : lengths[row]], alignment[row, : targets[row]].tolist(), 1, 1) for row in (0, 1)]
    for other in (0, 7):  # what the padding of the target starts from
        moved = torch.where(target_mask == 1, alignment, other)
        found = logits(model, ids, alignment=moved, attention_mask=mask, target_attention_mask=target_mask)
        for row in (0, 1):
            torch.testing.assert_close(found[row, : targets[row]], alone[row], atol=2e-6, rtol=1e-5)


@SHAPES
def test_the_identity_is_no_alignment_to_the_last_bit(shape: str) -> None:
    model = tiny_model(shape, WORDS)
    ids = sentence()
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    ids[1, 6:] = PADDING
    plain = logits(model, ids, attention_mask=mask)
    again = logits(
        model,
        ids,
        attention_mask=mask,
        alignment=torch.arange(N).expand_as(ids),
        language_ids=torch.tensor([[1], [1]]),
        target_language_ids=torch.tensor([1, 1]),
        target_attention_mask=mask,
    )
    assert torch.equal(again, plain)


@SHAPES
def test_an_unaligned_place_starts_from_the_state_of_the_appended_padding(shape: str) -> None:
    model = tiny_model(shape, WORDS)
    ids = torch.cat([sentence(), torch.full((2, 1), PADDING)], dim=1)
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    entering: list[Tensor] = []
    body = model.base_model
    body.encoder.trilayer.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    leaving: list[Tensor] = []
    body.encoder.layer[1].register_forward_hook(lambda *inputs: leaving.append(inputs[2]))
    alignment = torch.tensor([[9, 0, 4], [1, 9, 9]])
    logits(model, ids, attention_mask=mask, alignment=alignment, target_attention_mask=torch.ones_like(alignment))
    start, tables = first_position(model), body.embeddings
    added = tables.position_embeddings.weight[start : start + 3] + tables.language_embeddings.weight[1]
    for row in (0, 1):
        torch.testing.assert_close(entering[0][row] - added, leaving[0][row, alignment[row]], atol=1e-6, rtol=0)
    assert leaving[0][:, -1].abs().max() > 0.1  # which is no zero, but has seen the sentence
    assert not torch.allclose(leaving[0][0, -1], leaving[0][1, -1])


@SHAPES
def test_both_languages_matter_and_the_second_is_the_first_unless_told(shape: str) -> None:
    model = tiny_model(shape, WORDS)
    ids = sentence()
    old, new = torch.tensor([0, 0]), torch.tensor([1, 1])
    assert torch.equal(logits(model, ids), logits(model, ids, language_ids=new))
    as_old = logits(model, ids, language_ids=old)
    assert torch.equal(as_old, logits(model, ids, language_ids=old, target_language_ids=old))
    pairs = [(old, old), (old, new), (new, old), (new, new)]
    results = [logits(model, ids, language_ids=a, target_language_ids=b) for a, b in pairs]
    assert all(not torch.allclose(a, b) for number, a in enumerate(results) for b in results[:number])


@SHAPES
def test_packed_documents_are_kept_apart_by_a_mask_and_positions(shape: str) -> None:
    model = tiny_model(shape, WORDS)
    ids, lengths = sentence(rows=1), (4, 5)
    document = torch.tensor([0] * 4 + [1] * 5)
    mask = (document[:, None] == document)[None, None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None] + first_position(model)
    packed = logits(model, ids, attention_mask=mask, position_ids=positions)[0]
    alone = torch.cat([logits(model, part)[0] for part in ids.split(lengths, dim=1)])
    torch.testing.assert_close(packed, alone, atol=2e-6, rtol=1e-5)


@SHAPES
def test_it_has_one_block_and_the_languages_more_than_the_encoder_it_is_made_of(shape: str) -> None:
    plain = tiny_model(shape.removeprefix("trelm-"), WORDS, num_hidden_layers=4)
    block = sum(parameter.numel() for parameter in plain.base_model.encoder.layer[0].parameters())
    width = plain.config.hidden_size
    assert tiny_model(shape, WORDS).num_parameters() == plain.num_parameters() + block + 2 * width
    three = tiny_model(shape, WORDS + 7, num_languages=3)
    assert three.num_parameters() == plain.num_parameters() + block + 3 * width + 7 * (width + 1)


@SHAPES
def test_the_auto_classes_open_what_was_saved(shape: str, tmp_path: Path) -> None:
    model = tiny_model(shape, WORDS, num_labels=3)
    folder = save_model(tmp_path / "model", model)
    again = AutoModelForMaskedLM.from_pretrained(folder)
    assert type(again) is type(model)
    assert torch.equal(logits(again, sentence()), logits(model, sentence()))
    body = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        states = body(sentence()).last_hidden_state
        assert torch.equal(states, model.base_model(sentence()).last_hidden_state)

    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    scores = classifier(sentence(), language_ids=torch.tensor([0, 0]), labels=torch.tensor([0, 2]))
    assert scores.logits.shape == (2, 3)
    scores.loss.backward()
    assert classifier.base_model.encoder.trilayer.output.dense.weight.grad.abs().max() > 0
    kept = AutoModelForSequenceClassification.from_pretrained(save_model(tmp_path / "classifier", classifier))
    with torch.no_grad():
        assert torch.equal(kept.eval()(sentence()).logits, classifier.eval()(sentence()).logits)


def test_the_file_alone_is_enough_where_clpds_is_not_installed(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", tiny_model("trelm-bert", WORDS))
    (tmp_path / "trelm.py").write_bytes(Path("clpds/models/trelm.py").read_bytes())
    program = (
        "import sys, trelm; from transformers import AutoModelForMaskedLM; "
        f"print(type(AutoModelForMaskedLM.from_pretrained({str(folder)!r})).__name__, 'clpds' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env={"PATH": "", "HOME": "/"}
    )
    assert done.stdout.split() == ["TrelmBertForMaskedLM", "False"], done.stderr


@pytest.mark.parametrize("change", [{"num_hidden_layers": 3}, {"is_decoder": True}])
def test_no_middle_and_no_decoder(change: dict[str, Any], tmp_path: Path) -> None:
    config = TrelmBertConfig(vocab_size=WORDS, **TRELM["trelm-bert"][1] | change)
    with pytest.raises(ValueError, match=r"TRILayer"):
        TrelmBertModel(config)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"config.json describes no model .*TRILayer"):
        open_checkpoint(tmp_path)
