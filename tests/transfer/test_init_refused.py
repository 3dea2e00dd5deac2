"""What `clpds init` refuses by name, having written nothing."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram as UnigramModel
from transformers import PreTrainedTokenizerFast

from clpds.errors import UserError
from clpds.recipe import Init
from clpds.transfer.init import init
from tests.tiny import save_model, tiny_model, tiny_tokenizer


def spoil(folder: Path, name: str, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name][5, 1] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def other_tokenizer(models: Path, tmp_path: Path) -> dict[str, Any]:
    tiny_tokenizer("byte_bpe", "de").save_pretrained(tmp_path / "other")
    return {"tokenizer": tmp_path / "other"}


def small_helper(models: Path, tmp_path: Path) -> dict[str, Any]:
    german = tiny_tokenizer("unigram", "de")
    return {"helper": save_model(tmp_path / "small", tiny_model("gpt2", len(german) - 1, seed=1), german)}


def small_source(models: Path, tmp_path: Path) -> dict[str, Any]:
    english = tiny_tokenizer("byte_bpe", "en")
    return {"source": save_model(tmp_path / "small", tiny_model("llama", len(english) - 1), english)}


def nan_helper(models: Path, tmp_path: Path) -> dict[str, Any]:
    shutil.copytree(models / "helper", tmp_path / "nan")
    spoil(tmp_path / "nan", "transformer.wte.weight", torch.nan)
    return {"helper": tmp_path / "nan"}


def infinite_source(models: Path, tmp_path: Path) -> dict[str, Any]:
    shutil.copytree(models / "source", tmp_path / "inf")
    spoil(tmp_path / "inf", "lm_head.weight", torch.inf)
    return {"source": tmp_path / "inf"}


def no_overlap(models: Path, tmp_path: Path) -> dict[str, Any]:
    words = [("<unk>", 0.0), ("<s>", 0.0), ("\u2581\u0642", -1.0), ("\u0644", -1.0)]
    backend = Tokenizer(UnigramModel(words, unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    arabic = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")
    return {"helper": save_model(tmp_path / "ar", tiny_model("gpt2", 4, seed=1), arabic)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_tokenizer, "different tokenizers"),
        (small_helper, "small: the embedding has 599 rows, but the tokenizer ids up to 599"),
        (small_source, "small: the embedding has 599 rows, but the tokenizer ids up to 599"),
        (nan_helper, r"nan/model\.safetensors: row 5 of transformer\.wte\.weight holds NaN"),
        (no_overlap, "ar have no overlap"),
        (infinite_source, r"inf/model\.safetensors: row 5 of lm_head\.weight holds NaN"),
        (lambda models, tmp_path: {"helper": None, "method": "mean"}, "pass --tokenizer, or --helper"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    change: Callable[[Path, Path], dict[str, Any]], message: str, step: Init, models: Path, tmp_path: Path
) -> None:
    step = replace(step, **change(models, tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        init(step)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out*"))
