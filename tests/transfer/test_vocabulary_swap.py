"""Another vocabulary under models of every shape: the files written are models that transformers opens."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from clpds.checkpoint import Checkpoint, LazyTensor, open_checkpoint, write_checkpoint
from clpds.errors import UserError
from clpds.recipe import Init
from clpds.transfer.vocabulary_swap import parts, read_rows, swap_vocabulary
from tests.tiny import CAUSAL, SHAPES, save_model, tiny_model

OLD, PAD_TO, PADDED = 96, 32, 128
IDS = {"bos_token_id": 7, "eos_token_id": 9, "pad_token_id": 4}


def new_ids(special: dict[str, int]) -> Tensor:
    """The new id of each old one: 100 ids with four holes, shuffled, the first three moved to ``special``."""
    free = [id_ for id_ in range(100) if id_ not in (10, 40, 70, 98, *special.values())]
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(0)).tolist()
    return torch.tensor([*special.values(), *(free[i] for i in order)])


def swapped(source: Checkpoint, to: Tensor, special: dict[str, int], *, pad_to: int = PAD_TO) -> Checkpoint:
    """``source`` with its own rows under new ids."""
    rows = {}
    for role, names in parts(source).items():
        old = read_rows(source, names)
        rows[role] = old.new_full((int(to.max()) + 1, old.shape[1]), 1e6)  # holes: anything
        rows[role][to] = old
    return swap_vocabulary(
        source, rows, used=to, special_ids=special, tokenizer_folder=source.tokenizer_folder or Path(), pad_to=pad_to
    )


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_renumbered_vocabulary_computes_what_the_source_does(shape: str, tied: bool, tmp_path: Path) -> None:
    dtype = torch.bfloat16 if shape == "gemma" else torch.float32
    model = tiny_model(shape, OLD, tied=tied, dtype=dtype)
    # Positions counted from the padding id (the two RoBERTas) move up in one case and down in the other.
    special = IDS | {"pad_token_id": 1} if shape == "xlm-roberta" else IDS
    source, to = open_checkpoint(save_model(tmp_path / "source", model)), new_ids(special)
    result = swapped(source, to, special)
    write_checkpoint(result, tmp_path / "out", Init(source=tmp_path, out=tmp_path / "out"), inputs={}, card="")
    opened, problems = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(problems.values())
    assert opened.dtype == dtype
    assert opened.config.vocab_size == opened.get_input_embeddings().num_embeddings == PADDED

    old_ids = torch.randint(3, OLD, (2, 12), generator=torch.Generator().manual_seed(1))
    old_ids[1, 8:] = 2  # padding
    mask = (old_ids != 2).long()
    with torch.no_grad():
        before = model.float()(input_ids=old_ids, attention_mask=mask).logits
        after = opened.float().eval()(input_ids=to[old_ids], attention_mask=mask).logits
    torch.testing.assert_close(after[..., to], before)
    # Holes and padding rows hold the mean of the rows in use, so they never win.
    unused = [id_ for id_ in range(PADDED) if id_ not in set(to.tolist())]
    assert (after[..., unused].amax(dim=-1) <= before.amax(dim=-1)).all()
    mean = before.mean(dim=-1, keepdim=True).expand(2, 12, len(unused))
    torch.testing.assert_close(after[..., unused], mean, rtol=1e-3, atol=1e-5 if dtype == torch.float32 else 1e-3)

    vocabulary = {name for names in parts(source).values() for name in names}
    for name, tensor in result.tensors.items():
        if name not in vocabulary and "position" not in name:
            assert tensor is source.tensors[name]
    for config in (opened.config, *([opened.generation_config] if shape in CAUSAL else [])):
        assert {name: getattr(config, name) for name in special} == special


def test_rows_keep_their_bits_and_their_dtype() -> None:
    model = tiny_model("bert", OLD, tied=False, dtype=torch.bfloat16)
    tensors = {name: LazyTensor.of(tensor.detach()) for name, tensor in model.state_dict().items()}
    source, to = Checkpoint(tensors=tensors, config=model.config), new_ids(IDS)
    result = swapped(source, to, IDS, pad_to=1)
    for names in parts(source).values():
        for name in names:
            new, old = result.tensors[name].load(), source.tensors[name].load()
            assert new.dtype == torch.bfloat16
            assert new.shape == (100, *old.shape[1:])
            assert torch.equal(new[to], old)
            holes = sorted(set(range(100)) - set(to.tolist()))
            torch.testing.assert_close(
                new[holes].float(), old.float().mean(dim=0).expand_as(new[holes]), rtol=1e-2, atol=1e-4
            )
            assert torch.equal(result.tensors[name].flat(37, new.numel() - 1), new.reshape(-1)[37:-1])  # some rows


def test_a_role_that_the_target_does_not_fill_is_none() -> None:
    model = tiny_model("llama", OLD)
    tensors = {name: LazyTensor.of(tensor.detach()) for name, tensor in model.state_dict().items()}
    del tensors["lm_head.weight"]
    source = Checkpoint(tensors, model.config, generation_config=model.generation_config)
    rows = {"input": tensors["model.embed_tokens.weight"].load()}
    result = swap_vocabulary(
        source, rows, used=torch.arange(OLD), special_ids={"eos_token_id": 5}, tokenizer_folder=Path()
    )  # type: ignore[arg-type]
    for config in (result.config, result.generation_config):
        assert config is not None
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, 5, None)
    assert source.config.eos_token_id == 1  # the source is left as it was


def test_positions_counted_from_a_padding_id_need_one() -> None:
    model = tiny_model("roberta", OLD)
    tensors = {name: LazyTensor.of(tensor.detach()) for name, tensor in model.state_dict().items()}
    source = Checkpoint(tensors, model.config)
    rows = {role: read_rows(source, names) for role, names in parts(source).items()}
    with pytest.raises(UserError, match="no pad token"):
        swap_vocabulary(source, rows, used=torch.arange(OLD), special_ids={}, tokenizer_folder=Path())


def test_some_rows_are_those_of_all_and_every_row_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clpds.vocabulary.blocks.BLOCK", 7 * 32)
    model = tiny_model("llama", OLD)
    tensors = {name: LazyTensor.of(tensor.detach()) for name, tensor in model.state_dict().items()}
    source, names = Checkpoint(tensors, model.config), ["model.embed_tokens.weight"]
    for ids in (torch.tensor([0, 6, 7, 20, 50, OLD - 1]), torch.arange(0), torch.arange(OLD)):
        assert torch.equal(read_rows(source, names, ids), tensors[names[0]].load()[ids])
    tensors[names[0]].load()[50, 3] = torch.inf
    with pytest.raises(UserError, match=r"row 50 of model\.embed_tokens\.weight holds NaN"):
        read_rows(source, names, torch.tensor([3]))


def test_nan_rows_are_named() -> None:
    model = tiny_model("llama", OLD)
    tensors = {name: LazyTensor.of(tensor.detach(), "a.safetensors") for name, tensor in model.state_dict().items()}
    tensors["model.embed_tokens.weight"].load()[17, 3] = torch.nan
    with pytest.raises(UserError, match=r"a\.safetensors: row 17 of model\.embed_tokens\.weight holds NaN"):
        read_rows(Checkpoint(tensors, model.config), ["model.embed_tokens.weight"])
