"""Mini-model adaptation's checkpoints: what is cut out, what is left, what is plugged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    PreTrainedModel,
    RobertaForSequenceClassification,
)

from clpds.errors import UserError
from clpds.objectives.masked import Masked
from clpds.objectives.minijoint import MiniJointMasked
from clpds.recipe import Init
from clpds.transfer.init import init
from clpds.vocabulary.tokenizer import load_tokenizer, require_same
from tests.models.test_packing import packed
from tests.tiny import save_model, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer("wordpiece")
SIZE = len(TOKENIZER)
LAYERS, TAKE = 4, 2
ENCODERS = ("bert", "roberta")
HEADS = {"bert": "cls", "roberta": "lm_head"}
IDS = torch.arange(5, 25).reshape(2, 10)


def encoder(shape: str, **changes: Any) -> PreTrainedModel:
    return tiny_model(shape, SIZE, num_hidden_layers=LAYERS, pad_token_id=0, **changes)


def made(tmp_path: Path, source: Path, method: str, **options: Any) -> Path:
    out = tmp_path / f"{method}-{len(list(tmp_path.iterdir()))}"
    init(Init(method=method, source=source, out=out, **options))  # type: ignore[arg-type]
    return out


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def joint(tmp_path: Path, shape: str) -> tuple[Path, PreTrainedModel]:
    """A MiniJoint model whose heads differ, saved and loaded by the Auto class."""
    source = save_model(tmp_path / "source", encoder(shape), TOKENIZER)
    folder = made(tmp_path, source, "minijoint", take=TAKE)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("mini_"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder, AutoModelForMaskedLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("shape", ENCODERS)
@torch.no_grad()
def test_the_mini_model_says_what_the_middle_head_says(shape: str, tmp_path: Path) -> None:
    folder, model = joint(tmp_path, shape)
    both = model(IDS)
    mini = AutoModelForMaskedLM.from_pretrained(made(tmp_path, folder, "minimodel", take=TAKE)).eval()
    assert mini.config.model_type == shape
    assert mini.config.num_hidden_layers == TAKE
    assert torch.equal(mini(IDS).logits, both.mini_logits)
    assert not torch.allclose(both.logits, both.mini_logits)
    top = encoder(shape)
    assert torch.equal(top(IDS).logits, both.logits)  # whatever the middle head is
    primary = made(tmp_path, folder, "primary")
    assert same(tensors(primary), tensors(tmp_path / "source"))
    assert torch.equal(AutoModelForMaskedLM.from_pretrained(primary).eval()(IDS).logits, both.logits)
    heads = [model.get_output_embeddings(), getattr(model, f"mini_{HEADS[shape]}")]
    middle = getattr(heads[1], "predictions", heads[1]).decoder
    assert heads[0].weight is middle.weight is model.get_input_embeddings().weight  # one matrix, loaded or not


@pytest.mark.parametrize("shape", ENCODERS)
def test_gradients_are_the_weighted_sum(shape: str, tmp_path: Path) -> None:
    _, model = joint(tmp_path, shape)
    batch = packed()
    plain = Masked.of(TOKENIZER, 0.5, "").prepare(batch, range(len(batch.input_ids)), 0)

    def gradients(weight: float) -> dict[str, Tensor | None]:
        model.zero_grad(set_to_none=True)
        objective = MiniJointMasked.of(TOKENIZER, 0.5, "", mini_weight=weight)
        objective.check(model)
        objective.loss_sum(model, plain).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    mini, top, half = gradients(1.0), gradients(0.0), gradients(0.5)
    assert plain.labels.ne(-100).sum() > 5

    def touched(found: dict[str, Tensor | None]) -> set[str]:
        return {name for name, grad in found.items() if grad is not None and grad.abs().max() > 0}

    upper = {name for name in mini for layer in range(TAKE, LAYERS) if f"layer.{layer}." in name}
    assert upper
    assert not touched(mini) & upper
    assert not touched(top) & {name for name in top if name.startswith("mini_")}
    assert not touched(mini) & {name for name in mini if name.startswith(HEADS[shape])}
    assert upper <= touched(half) | {name for name in upper if "key.bias" in name}  # a key's bias moves no softmax
    for name, grad in half.items():
        parts = [part[name] for part in (mini, top)]
        assert grad is not None
        expected = sum(0.5 * part if part is not None else torch.zeros(()) for part in parts)
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [*ENCODERS, "gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize(("new_layers", "new_from"), [(0, "fresh"), (1, "fresh"), (1, "next"), (2, "last")])
def test_the_lowest_layers_and_some_on_top(shape: str, new_layers: int, new_from: str, tmp_path: Path) -> None:
    model = tiny_model(shape, SIZE, pad_token_id=0, **({"n_layer": 4} if shape == "gpt2" else {"num_hidden_layers": 4}))
    source = save_model(tmp_path / "source", model, TOKENIZER)
    options = {"take": 1, "new_layers": new_layers, "new_from": new_from} if new_layers else {"take": 1}
    out = made(tmp_path, source, "minimodel", **options, seed=4)
    auto = AutoModelForMaskedLM if shape in ENCODERS else AutoModelForCausalLM
    mini = auto.from_pretrained(out).eval()
    ours, theirs = mini.state_dict(), model.state_dict()
    origins = [2, 3] if new_from == "last" else [1]
    drawn = set()
    for name, tensor in ours.items():
        number = next((int(part) for part in name.split(".") if part.isdigit()), None)
        origin = name if number is None or number < 1 else name.replace(f".{number}.", f".{origins[number - 1]}.", 1)
        if not torch.equal(tensor, theirs[origin]):
            drawn.add(name)
    layers = {name for name in ours if any(part.isdigit() and int(part) > 0 for part in name.split("."))}
    if new_layers and new_from == "fresh":
        matrices = {name for name in layers if ours[name].ndim > 1}
        assert matrices <= drawn <= layers | {name for name in ours if name.startswith(("cls", "lm_head"))}
        again = tensors(made(tmp_path, source, "minimodel", **options, seed=4))
        other = tensors(made(tmp_path, source, "minimodel", **options, seed=5))
        assert same(again, tensors(out))
        assert not same(other, again)
    else:
        assert not drawn
    assert len(layers) == new_layers * sum(".1." in name for name in theirs)
    assert mini(IDS).logits.isfinite().all()


def permuted(source: Path, out: Path, order: Tensor) -> Path:
    """A "language" that is the source under other ids: the mini-model's rows in another order, an oracle."""
    model = AutoModelForMaskedLM.from_pretrained(source)
    with torch.no_grad():
        words = model.get_input_embeddings().weight
        words.copy_(words[order].clone())
        bias = model.get_output_embeddings().bias
        bias.copy_(bias[order].clone())
    return save_model(out, model, TOKENIZER)


@pytest.mark.parametrize("shape", ENCODERS)
@torch.no_grad()
def test_permuted_rows_of_the_mini_model_are_the_permuted_language_in_the_primary(shape: str, tmp_path: Path) -> None:
    folder, _ = joint(tmp_path, shape)
    primary = made(tmp_path, folder, "primary")
    mini = made(tmp_path, folder, "minimodel", take=TAKE)
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(3))
    adapted = permuted(mini, tmp_path / "adapted", order)
    plugged = AutoModelForMaskedLM.from_pretrained(made(tmp_path, primary, "plug", embeddings=adapted)).eval()
    assert plugged.get_output_embeddings().weight is plugged.get_input_embeddings().weight
    place = torch.argsort(order)  # old id -> new id
    attention = torch.ones_like(IDS)
    positions = torch.arange(10).expand(2, -1) + (1 if shape == "roberta" else 0)
    before = AutoModelForMaskedLM.from_pretrained(primary).eval()
    expected = before(IDS, attention_mask=attention, position_ids=positions).logits
    top = getattr(before, HEADS[shape])
    bias = getattr(top, "predictions", top).bias
    middle = tensors(folder)[{"bert": "mini_cls.predictions.bias", "roberta": "mini_lm_head.bias"}[shape]]
    found = plugged(place[IDS], attention_mask=attention, position_ids=positions).logits[:, :, place]
    torch.testing.assert_close(found - middle, expected - bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "cls"), [("bert", BertForSequenceClassification), ("roberta", RobertaForSequenceClassification)]
)
@torch.no_grad()
def test_plugging_into_a_fine_tuned_model(shape: str, cls: type[PreTrainedModel], tmp_path: Path) -> None:
    primary = save_model(tmp_path / "primary", encoder(shape), TOKENIZER)
    task = cls.from_pretrained(primary, num_labels=3).eval()
    folder = save_model(tmp_path / "task", task, TOKENIZER)
    assert same(tensors(made(tmp_path, folder, "plug", embeddings=primary)), tensors(folder))
    mini = made(tmp_path, primary, "minimodel", take=TAKE)
    foreign = tiny_tokenizer("unigram")  # pads with another id, which moves RoBERTa's positions
    foreign.save_pretrained(tmp_path / "foreign")
    adapted = made(tmp_path, mini, "overlap", tokenizer=tmp_path / "foreign")
    words = f"{shape}.embeddings.word_embeddings.weight"
    whole = tensors(made(tmp_path, primary, "overlap", tokenizer=tmp_path / "foreign"))
    assert torch.equal(tensors(adapted)[words], whole[words])  # the standard approach would start from the same rows
    out = made(tmp_path, folder, "plug", embeddings=adapted)
    plugged, old = AutoModelForSequenceClassification.from_pretrained(out).eval(), tensors(folder)
    assert type(plugged) is cls
    assert plugged.config.num_labels == 3
    require_same(load_tokenizer(out), foreign, "plugged", "foreign")
    new, rows = tensors(out), tensors(adapted)
    changed = {name for name in new if old[name].shape != new[name].shape or not torch.equal(old[name], new[name])}
    assert changed == {words} | ({f"{shape}.embeddings.position_embeddings.weight"} if shape == "roberta" else set())
    assert torch.equal(new[words], rows[words])
    ids = torch.arange(5, 15)[None]
    with_rows = cls.from_pretrained(folder).eval()  # the same by hand: the adapted rows fed in as they are
    expected = with_rows(inputs_embeds=rows[words][ids]).logits
    torch.testing.assert_close(plugged(ids).logits, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(IndexError):
        plugged(torch.tensor([[len(rows[words])]]))


@torch.no_grad()
def test_a_tied_decoder_is_cut_and_plugged(tmp_path: Path) -> None:
    decoder = tiny_model("llama", 600, num_hidden_layers=LAYERS)
    tokenizer = tiny_tokenizer("byte_bpe")
    source = save_model(tmp_path / "source", decoder, tokenizer)
    mini = made(tmp_path, source, "minimodel", take=TAKE)
    model = AutoModelForCausalLM.from_pretrained(mini).eval()
    hidden = decoder(IDS, output_hidden_states=True).hidden_states[TAKE]
    torch.testing.assert_close(model(IDS).logits, decoder.lm_head(decoder.model.norm(hidden)))  # an early exit
    order = torch.randperm(600, generator=torch.Generator().manual_seed(3))
    words = model.get_input_embeddings().weight
    words.copy_(words[order].clone())
    plugged = AutoModelForCausalLM.from_pretrained(
        made(tmp_path, source, "plug", embeddings=save_model(tmp_path / "adapted", model, tokenizer))
    ).eval()
    assert plugged.lm_head.weight is plugged.get_input_embeddings().weight
    place = torch.argsort(order)
    torch.testing.assert_close(plugged(place[IDS]).logits[:, :, place], decoder(IDS).logits)
    untied = save_model(tmp_path / "untied", tiny_model("llama", 600, tied=False), tokenizer)
    with pytest.raises(UserError, match=r"untied has an output matrix of its own"):
        made(tmp_path, untied, "plug", embeddings=mini)


def test_what_does_not_go_is_refused_by_name(tmp_path: Path) -> None:
    folder, _ = joint(tmp_path, "bert")
    source = tmp_path / "source"
    small = save_model(tmp_path / "small", encoder("bert", hidden_size=16), TOKENIZER)
    llama = save_model(tmp_path / "llama", tiny_model("llama", SIZE), TOKENIZER)
    mute = save_model(tmp_path / "mute", encoder("bert"))
    for where, method, options, words in (
        (folder, "minimodel", {"take": 1}, "middle head after layer 2, not 1"),
        (source, "minimodel", {"take": LAYERS}, "4 layers; take must be fewer"),
        (source, "minimodel", {"take": 3, "new_layers": 2, "new_from": "next"}, "no 2 layers to take above layer 3"),
        (source, "primary", {}, "no middle head to remove"),
        (llama, "minijoint", {"take": 1}, "only bert and roberta"),
        (source, "minijoint", {"take": 9}, "take must be fewer"),
        (small, "plug", {"embeddings": source}, "embeddings of 16 numbers"),
        (source, "plug", {"embeddings": mute}, "no tokenizer"),
        (folder, "plug", {"embeddings": source}, "plugged into a MiniJoint model after method primary"),
    ):
        with pytest.raises(UserError, match=words):
            made(tmp_path, where, method, **options)  # type: ignore[arg-type]
