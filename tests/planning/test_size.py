"""The table of families says what the model classes say, name by name."""

import json
from typing import Any

import pytest
import transformers

from clpds.checkpoint.anatomy import anatomy
from clpds.errors import UserError
from clpds.flops import places
from clpds.planning.encoders import CLASSIFYING
from clpds.planning.family import Family
from clpds.planning.size import FAMILIES, Size, size_of
from clpds.training.flops import model_parts
from tests.tiny import GQA, SHAPES, SMALL


def config_of(shape: str, **changes: Any) -> Any:
    class_name, arguments = SHAPES[shape]
    config = getattr(transformers, class_name).config_class(**arguments | {"vocab_size": 600} | changes)
    config.architectures = [class_name]
    return config


def as_written(config: Any) -> dict[str, Any]:
    return json.loads(config.to_json_string())


def check(size: Size, config: Any) -> None:
    """The table says of the model what the model itself says."""
    found = model_parts(anatomy(config).model)
    assert not size.exact
    assert size.shapes == found.shapes
    assert set(size.parts.tables) == set(found.tables)
    assert (size.parts.words, size.parts.outputs, size.hidden) == (found.words, found.outputs, found.hidden)
    assert places(size.shapes, found.words) == places(found.shapes, found.words)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_parameter_is_that_of_the_model_class(shape: str, tied: bool) -> None:
    config = config_of(shape, tie_word_embeddings=tied)
    size = size_of(as_written(config))
    check(size, config)
    assert size.parameters == anatomy(config).model.num_parameters()


@pytest.mark.parametrize(
    "family",
    [*(family for kind, family in FAMILIES.items() if kind not in SHAPES), *CLASSIFYING.values()],
    ids=lambda family: family.model_class,
)
def test_every_parameter_of_clpds_own_classes_and_of_classifiers(family: Family) -> None:
    (kind,) = {kind for table in (FAMILIES, CLASSIFYING) for kind, one in table.items() if one == family}
    config = transformers.AutoConfig.for_model(kind, vocab_size=600, num_labels=3, **SMALL)
    config.architectures = [family.model_class]
    check(size_of(as_written(config)), config)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_what_a_config_class_takes_unless_told(kind: str) -> None:
    config, defaults = transformers.AutoConfig.for_model(kind), FAMILIES[kind].defaults
    names = [f"{role}_token_id" for role in ("bos", "eos", "pad")]
    assert [getattr(config, name) for name in names] == [defaults.get(name) for name in names]
    assert hasattr(config, "max_position_embeddings") == ("max_position_embeddings" not in defaults)


def test_the_tables_are_tested_whole() -> None:
    assert set(SHAPES) < set(FAMILIES)


def test_heads_of_another_size_and_as_many_key_value_heads() -> None:
    config = config_of("llama", head_dim=24, num_key_value_heads=4)
    assert size_of(as_written(config)).parameters == anatomy(config).model.num_parameters()


@pytest.mark.parametrize("change", [{"attention_bias": True}, {"mlp_bias": True}])
def test_a_setting_that_the_table_does_not_know_is_counted(change: dict[str, bool]) -> None:
    config = config_of("llama", **change)
    size = size_of(as_written(config))
    assert size.exact
    assert size.parameters == anatomy(config).model.num_parameters()


def test_another_family_and_a_missing_field_are_counted() -> None:
    phi = transformers.PhiConfig(vocab_size=600, **{**GQA, "num_key_value_heads": 4})
    assert size_of(as_written(phi)).parameters == anatomy(phi).model.num_parameters()
    short = as_written(config_of("llama"))
    del short["intermediate_size"]
    full = transformers.LlamaConfig(**short)
    size = size_of(short)
    assert size.exact
    assert size.parameters == anatomy(full).model.num_parameters()


def test_what_is_no_model_is_one_line() -> None:
    with pytest.raises(UserError, match="t5"):
        size_of({"model_type": "t5"})
    with pytest.raises(UserError, match="no model_type"):
        size_of({"vocab_size": 5})


def test_trained_parameters_by_name() -> None:
    size = size_of(as_written(config_of("gpt2")))
    assert size.elements(size.trained(("*wte*",))) == [600 * 32]
    with pytest.raises(UserError, match="lm_head"):
        size.trained(("lm_head*",))
