"""What is written is what transformers itself would have saved: names, shapes and types of classes that rename,
convert or keep float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from clpds.checkpoint import open_checkpoint, write_checkpoint
from clpds.errors import UserError
from clpds.recipe import Convert
from tests.tiny import save_model, tiny_model

SMALL: dict[str, Any] = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 1},
}
MOE: dict[str, Any] = {**SMALL, "num_key_value_heads": 2, "moe_intermediate_size": 16, "moe_num_experts": 4, "moe_k": 2}


def drawn(name: str, **settings: Any) -> PreTrainedModel:
    """A model of this class whose every parameter, bias or norm is some number of its own."""
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model: PreTrainedModel = cls(cls.config_class(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.tie_weights()
    return model.eval()


def copy(source: Path, out: Path, dtype: torch.dtype | None = None) -> None:
    checkpoint = open_checkpoint(source)
    write_checkpoint(checkpoint, out, Convert(model=source, out=out), inputs={}, card="", dtype=dtype)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("NomicBertForMaskedLM", SMALL),  # saved under other names, some of which match a second renaming
        ("JinaEmbeddingsV3ForMaskedLM", SMALL),
        ("ApertusForCausalLM", {**SMALL, "num_key_value_heads": 2}),  # has numbers of no dimension
    ],
)
def test_what_is_written_is_read_back_whole(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = drawn(name, **settings)
    model.save_pretrained(tmp_path / "source")
    copy(tmp_path / "source", tmp_path / "copy")
    saved, written = (load_file(tmp_path / place / "model.safetensors") for place in ("source", "copy"))
    assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in saved.items()}
    again, loading = type(model).from_pretrained(tmp_path / "copy", output_loading_info=True)
    assert not any(loading.values())
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, model(ids).logits)


def test_what_transformers_keeps_in_float32_is_written_in_it(tmp_path: Path) -> None:
    drawn("Ernie4_5_MoeForCausalLM", **MOE).save_pretrained(tmp_path / "source")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    copy(tmp_path / "source", tmp_path / "ours", torch.bfloat16)
    saved, written = (load_file(tmp_path / place / "model.safetensors") for place in ("theirs", "ours"))
    assert {torch.float32, torch.bfloat16} == {tensor.dtype for tensor in saved.values()}
    assert {n: t.dtype for n, t in written.items()} == {n: t.dtype for n, t in saved.items()}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in written.items())


def test_float8_is_cast_up(tmp_path: Path) -> None:
    save_model(tmp_path / "source", tiny_model("llama", 64))
    file = tmp_path / "source" / "model.safetensors"
    small = {n: t.to(torch.float8_e4m3fn) if t.dim() == 2 else t for n, t in load_file(file).items()}
    save_file(small, file, {"format": "pt"})
    for name, tensor in open_checkpoint(tmp_path / "source").tensors.items():
        assert tensor.dtype == tensor.load().dtype == torch.float32
        assert torch.equal(tensor.load(), small[name].float())


def test_a_quantised_checkpoint_is_called_that(tmp_path: Path) -> None:
    model = tiny_model("llama", 64)
    model.config.quantization_config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    save_model(tmp_path / "source", model)
    with pytest.raises(UserError, match=r"config.json: the weights are quantised \(fp8\)"):
        open_checkpoint(tmp_path / "source")


def test_a_composite_is_opened_as_the_language_model_that_transformers_takes(tmp_path: Path) -> None:
    text = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "layer_types": ["full_attention"] * 2}
    config = transformers.Qwen3_5Config(
        text_config=text,
        vision_config={"hidden_size": 16, "intermediate_size": 32, "depth": 1, "num_heads": 2, "out_hidden_size": 32},
    )
    torch.manual_seed(0)
    transformers.Qwen3_5ForConditionalGeneration(config).save_pretrained(tmp_path / "source")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "source")
    copy(tmp_path / "source", tmp_path / "copy")
    ours, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "copy", output_loading_info=True)
    assert type(ours) is type(theirs)
    assert not any(loading.values())
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(ours.eval()(ids).logits, theirs.eval()(ids).logits)


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    settings = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    model = drawn("BartForConditionalGeneration", **{**SMALL, **settings})
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match="BartForConditionalGeneration has an encoder and a decoder"):
        open_checkpoint(tmp_path / "source")
