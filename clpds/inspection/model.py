"""What a model's folder says of itself: without torch where the table of families knows it, which takes 3 s less."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from clpds.errors import UserError
from clpds.headers import KINDS, SAFETENSORS, Entry, read_header, read_shards
from clpds.inspection.rows import Rows, read_json, shares
from clpds.inspection.tokenizer import tokenizer
from clpds.model_counts import require_counts
from clpds.output import human_bytes
from clpds.planning.size import by_table, family_of
from clpds.tokenizer_files import has_tokenizer, require_small_files

SHAPE = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "positions": "max_position_embeddings",
}
SPECIAL = {role: f"{role}_token_id" for role in ("bos", "eos", "pad")}


@dataclass(frozen=True)
class Facts:
    """What is shown of a model."""

    model_class: str
    config: Mapping[str, Any]
    """Of the names in ``SHAPE`` and ``SPECIAL`` those that the config has, or its class takes unless told."""
    elements: Counter[str]
    """How many of each dtype."""
    parameters: int
    nbytes: int
    files: int
    rows: int
    """Of the input embedding."""
    tied: bool
    tokenizer_folder: Path | None


def model(path: Path) -> Rows:
    """A folder or hub id that `open_checkpoint` opens; UserError where tensors are missing or misshapen."""
    facts = from_files(path) or opened(path)
    rows = [
        ("kind", f"model, {facts.model_class}"),
        ("shape", ", ".join(f"{facts.config[key]:,} {what}" for what, key in SHAPE.items() if key in facts.config)),
        ("parameters", f"{facts.parameters:,}, {shares(facts.elements)}"),
        ("size", f"{human_bytes(facts.nbytes)} in {facts.files} {'file' if facts.files == 1 else 'shards'}"),
        ("vocabulary", f"{facts.rows:,} rows, input and output {'tied' if facts.tied else 'untied'}"),
        ("special ids", ", ".join(f"{r} {facts.config[key]}" for r, key in SPECIAL.items() if key in facts.config)),
    ]
    rows = [(what, value or "none") for what, value in rows]
    return [*rows, *(tokenizer(facts.tokenizer_folder) if facts.tokenizer_folder else [("tokenizer", "none")])]


def from_files(folder: Path) -> Facts | None:
    """None unless the files hold the tensors of the table, all and no others: then the model class has its say."""
    try:
        require_small_files(folder)
        config = read_json(folder / "config.json")
        require_counts(config)
        if (folder / "generation_config.json").is_file():
            read_json(folder / "generation_config.json")
        family, size = family_of(config), by_table(config)
        found = read_shards(folder, SAFETENSORS, _with_file)
    except (UserError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError):
        return None
    if family is None or size is None or found is None:
        return None
    if {name: entry.shape for name, (_, entry) in found.items()} != size.shapes:
        return None
    values = dict.fromkeys(SPECIAL.values()) | dict(family.defaults) | config
    values |= {name: config[own] for name, own in family.names.items() if own in config}
    if any(key not in values for key in SHAPE.values()):
        return None
    entries = [entry for _, entry in found.values()]
    return Facts(
        model_class=family.model_class,
        config=_told(values),
        elements=_elements((KINDS[entry.kind][0], entry.shape) for entry in entries),
        parameters=size.parameters,
        nbytes=sum(entry.stop - entry.start for entry in entries),
        files=len({file for file, _ in found.values()}),
        rows=size.shapes[size.parts.words][0],
        tied=bool(size.parts.outputs) or not family.head,
        tokenizer_folder=folder if has_tokenizer(folder) else None,
    )


def _with_file(file: Path) -> dict[str, tuple[Path, Entry]]:
    return {name: (file, entry) for name, entry in read_header(file).items()}


def opened(path: Path) -> Facts:
    """With torch and the model class: whatever transformers opens."""
    from clpds.checkpoint import anatomy, open_checkpoint

    checkpoint = open_checkpoint(path)
    parts, config = anatomy(checkpoint.config), checkpoint.config.get_text_config()
    tensors = checkpoint.tensors
    return Facts(
        model_class=parts.model_class.__name__,
        config=_told({key: getattr(config, key, None) for key in (*SHAPE.values(), *SPECIAL.values())}),
        elements=_elements((str(t.dtype).removeprefix("torch."), t.shape) for t in tensors.values()),
        parameters=sum(tensors[name].numel for name in parts.parameters),
        nbytes=checkpoint.nbytes,
        files=len({tensor.origin for tensor in tensors.values()}),
        rows=tensors[parts.input_embedding].shape[0],
        tied=parts.output_embedding is None,
        tokenizer_folder=checkpoint.tokenizer_folder,
    )


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in (*SHAPE.values(), *SPECIAL.values()) if values.get(key) is not None}


def _elements(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> Counter[str]:
    elements: Counter[str] = Counter()
    for dtype, shape in tensors:
        elements[dtype] += prod(shape)
    return elements
