"""What planning reads of a config, checked before it is reckoned with: numbers that are numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clpds.errors import UserError
from clpds.planning.encoders import CLASSIFYING
from clpds.planning.size import FAMILIES

NUMBERS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "num_key_value_heads",
    "intermediate_size", "max_position_embeddings", "type_vocab_size", "num_languages", "word_embed_proj_dim",
)  # fmt: skip
TEXTS = "model_type", "dtype", "torch_dtype", "activation_function", "hidden_act"
SWITCHES = ("tie_word_embeddings",)


def check_config(config: Mapping[str, Any], file: Path) -> None:
    """Raise UserError that names the key of ``file`` with what cannot stand there; a key may be missing, or null.

    Only of the families that the tables know: in others transformers says what it takes.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{file}: model_type is {kind!r}; expected the name of an architecture")
    classes = config.get("architectures")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise _wrong(file, "architectures", classes, "a list of class names")
    family = FAMILIES.get(kind) or CLASSIFYING.get(kind)
    if family is None:
        return
    for key in {*NUMBERS, *(family.names.get(name, name) for name in NUMBERS)}:
        if config.get(key) is not None:
            whole(config[key], key, file)
    for key in TEXTS:
        if not isinstance(config.get(key), str | None):
            raise _wrong(file, key, config[key], "a text")
    for key in (*SWITCHES, *(name for name, value in family.plain.items() if isinstance(value, bool))):
        if not isinstance(config.get(key), bool | None):
            raise _wrong(file, key, config[key], "true or false")
    if not isinstance(config.get("id2label"), dict | None):
        raise _wrong(file, "id2label", config["id2label"], "a mapping of numbers to classes")


def whole(value: Any, key: str, file: Path) -> int:
    """``value``, which stands at ``key`` of ``file``; UserError unless it is a whole number, 1 or more."""
    if type(value) is not int or value < 1:
        raise _wrong(file, key, value, "a whole number, 1 or more")
    return value


def _wrong(file: Path, key: str, value: Any, expected: str) -> UserError:
    text = repr(value)
    return UserError(f"{file}: {key} is {text if len(text) < 80 else text[:80] + '...'}; expected {expected}")
