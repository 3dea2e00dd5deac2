"""Ids in configs and generation configs under another vocabulary, in classes that differ in them."""

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoConfig,
    CwmConfig,
    EuroBertConfig,
    Gemma3Config,
    GenerationConfig,
    LlamaConfig,
    ModernBertDecoderConfig,
    PretrainedConfig,
    Qwen2_5OmniConfig,
    XGLMConfig,
)

from clpds.errors import UserError
from clpds.vocabulary.config_ids import with_ids

MOVED = {3: 30, 5: 50, 6: 60, 8: 80}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def test_what_generation_lists_is_mapped_or_dropped_with_its_tokens(tmp_path: Path) -> None:
    old = GenerationConfig(
        eos_token_id=[9, 5],
        suppress_tokens=[3, 4, 5],
        begin_suppress_tokens=[4],
        bad_words_ids=[[3, 5], [3, 4], [4]],
        force_words_ids=[[3], [[5], [4]]],
        forced_decoder_ids=[[1, 3], [2, 4]],
        forced_bos_token_id=7,
        forced_eos_token_id=[8],
        decoder_start_token_id=6,
        sequence_bias=[[[3], -10.0], [[4, 5], 2.0]],
        max_new_tokens=7,
    )
    new = with_ids(old, {"eos_token_id": 2}, MOVED)
    expected: dict[str, Any] = {
        "eos_token_id": [2, 50],
        "bos_token_id": None,
        "suppress_tokens": [30, 50],
        "begin_suppress_tokens": None,
        "bad_words_ids": [[30, 50]],
        "force_words_ids": [[30], [[50]]],
        "forced_decoder_ids": [[1, 30]],
        "forced_bos_token_id": None,
        "forced_eos_token_id": [80],
        "decoder_start_token_id": 60,
        "sequence_bias": [[[30], -10.0]],
        "max_new_tokens": 7,
    }
    assert {key: getattr(new, key) for key in expected} == expected
    assert old.suppress_tokens == [3, 4, 5]  # the source is left as it was
    as_mapping = GenerationConfig(sequence_bias={(3,): -10.0, (4, 5): 2.0})
    assert with_ids(as_mapping, {}, MOVED).sequence_bias == {(30,): -10.0}
    without = with_ids(old, {"eos_token_id": 2}, {})
    assert without.eos_token_id == 2
    lists = [key for key in expected if key not in ("eos_token_id", "max_new_tokens")]
    assert [getattr(without, key) for key in lists] == [None] * len(lists)


@pytest.mark.parametrize(
    ("config", "ids", "expected"),
    [
        (LlamaConfig(pad_token_id=4), {"eos_token_id": 2}, {"eos": 2, "bos": None, "pad": None}),
        (LlamaConfig(eos_token_id=[7, 8]), IDS, {"eos": [2, 80]}),
        (XGLMConfig(decoder_start_token_id=4), IDS, {"eos": 2, "decoder_start": 4}),  # no role, and must be there
        (XGLMConfig(decoder_start_token_id=5), IDS, {"decoder_start": 50}),
        (EuroBertConfig(mask_token_id=4), IDS, {"mask": EuroBertConfig().mask_token_id, "pad": 0}),
        (ModernBertDecoderConfig(cls_token_id=3), IDS, {"cls": 1, "sep": 2, "bos": 1, "eos": 2}),
        (CwmConfig(), {"eos_token_id": 2, "cls_token_id": 6}, {"bos": 6, "eos": 2}),
    ],
    ids=["none", "list", "decoder start", "its token moved", "mask", "cls and sep", "cls for bos"],
)
def test_roles_that_a_class_insists_on(
    config: PretrainedConfig, ids: dict[str, int], expected: dict[str, Any], tmp_path: Path
) -> None:
    new = with_ids(config, ids, MOVED)
    new.save_pretrained(tmp_path)
    for one in (new, AutoConfig.from_pretrained(tmp_path)):
        assert {role: getattr(one, f"{role}_token_id") for role in expected} == expected


def test_a_padding_id_that_a_class_insists_on_is_one_line() -> None:
    with pytest.raises(UserError, match="modernbert-decoder must have a padding id, but the target tokenizer has no"):
        with_ids(ModernBertDecoderConfig(), {"bos_token_id": 1, "eos_token_id": 2}, MOVED)


def test_ids_lie_in_the_text_config_and_those_of_images_and_sounds_stay(tmp_path: Path) -> None:
    gemma = Gemma3Config(text_config={"pad_token_id": 5, "eos_token_id": 6, "bos_token_id": 7}, image_token_id=3)
    new = with_ids(gemma, IDS, MOVED)
    new.save_pretrained(tmp_path / "gemma")
    for one in (new, AutoConfig.from_pretrained(tmp_path / "gemma")):
        assert {key: getattr(one.text_config, key) for key in IDS} == IDS
        assert one.image_token_id == 3
    omni = Qwen2_5OmniConfig()
    text, talker = omni.thinker_config.text_config, omni.talker_config.to_dict()
    text.pad_token_id, text.eos_token_id = 5, 6
    image = omni.thinker_config.image_token_id
    nested = with_ids(omni, IDS, MOVED)
    assert (nested.thinker_config.text_config.pad_token_id, nested.thinker_config.text_config.eos_token_id) == (0, 2)
    assert nested.thinker_config.image_token_id == image
    assert nested.talker_config.to_dict() == talker  # whose ids are codes of sounds
