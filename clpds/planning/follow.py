"""The config, the vocabulary and the sequence length of a stage before its inputs are made.

What exists is read. What does not is the output of an earlier step of the recipe, and that step
says what it will be.
"""

import json
import re
from pathlib import Path
from typing import Any

from clpds import provenance
from clpds.errors import UserError
from clpds.planning.gguf_header import gguf_config
from clpds.recipe import Convert, Data, Init, Pairs, Recipe, Step, Tokenizer, Train
from clpds.resources import find


def stage_config(recipe: Recipe, stage: Train) -> dict[str, Any]:
    """What config.json of the stage's model says or will say; UserError that names what to fetch."""
    if stage.model.suffix == ".json":
        config = _json(find("recipes", stage.model))
        return config | {"vocab_size": data_vocabulary(recipe, stage)}
    return model_config(recipe, stage.model)


def model_config(recipe: Recipe, model: Path) -> dict[str, Any]:
    """The config of a folder, a GGUF file, a hub id that was downloaded before, or the output of a step."""
    if (model / "config.json").is_file():
        return _json(model / "config.json")
    if model.suffix == ".gguf" and model.is_file():
        return gguf_config(model)
    match _maker(recipe, model):
        case Init(method="merge") as step:
            return model_config(recipe, step.source)
        case Init() as step:
            rows, config = _target_vocabulary(recipe, step), model_config(recipe, step.source)
            if step.makes_trilayer:
                config |= {"model_type": f"trelm-{config['model_type']}", "architectures": None}
            return config | {"vocab_size": -(-rows // step.pad_to) * step.pad_to}
        case Convert() as step:
            return model_config(recipe, step.model) | ({"dtype": step.dtype} if step.dtype else {})
        case Train() as step:
            return stage_config(recipe, step)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model)) and not model.exists():
        cached = _cached(str(model), "config.json")
        if cached:
            return _json(cached)
    raise UserError(
        f"{model} is not there and no step of {recipe.path} makes it; fetch it first, "
        "or name a config.json as the stage's model"
    )


def vocabulary(recipe: Recipe, folder: Path) -> int:
    """Rows that an embedding needs for the tokenizer of a folder, or of the step that will write it."""
    if (folder / "tokenizer.json").is_file():
        return _rows(folder / "tokenizer.json")
    if folder.suffix == ".gguf" and folder.is_file():
        return int(gguf_config(folder)["vocab_size"])
    match _maker(recipe, folder):
        case Tokenizer() as step:
            return step.vocab_size
        case Init(method="merge") as step:
            return vocabulary(recipe, step.source)
        case Init() as step:
            return _target_vocabulary(recipe, step)
        case Convert() as step:
            return vocabulary(recipe, step.model)
        case Train() as step:
            return data_vocabulary(recipe, step)
    cached = _cached(str(folder), "tokenizer.json") if not folder.exists() else None
    if cached:
        return _rows(cached)
    raise UserError(f"{folder} has no tokenizer.json and no step of {recipe.path} makes it; fetch or train it first")


def data_vocabulary(recipe: Recipe, stage: Train) -> int:
    """Rows that the tokenizer of the stage's first corpus needs."""
    folder = next(iter(stage.data.values())).path
    if (folder / "tokenizer" / "tokenizer.json").is_file():
        return _rows(folder / "tokenizer" / "tokenizer.json")
    step = _maker(recipe, folder)
    if not isinstance(step, Data | Pairs):
        raise UserError(f"{folder} is no data folder and no step of {recipe.path} makes it; write it with `clpds data`")
    return vocabulary(recipe, step.tokenizer)


def sequence_length(recipe: Recipe, stage: Train) -> int:
    """Tokens in a block of the stage's data."""
    folder = next(iter(stage.data.values())).path
    record = provenance.read(folder) if folder.is_dir() else None
    if record and record.get("verb") in ("data", "pairs"):
        return int(record["parameters"]["sequence_length"])
    step = _maker(recipe, folder)
    if not isinstance(step, Data | Pairs):
        raise UserError(f"{folder} is no data folder and no step of {recipe.path} makes it; write it with `clpds data`")
    return step.sequence_length


def _target_vocabulary(recipe: Recipe, step: Init) -> int:
    target = step.tokenizer or step.helper
    if target is None:
        raise UserError(f"the step that makes {step.out} names neither tokenizer nor helper; give one")
    return vocabulary(recipe, target)


def _maker(recipe: Recipe, path: Path) -> Step | None:
    """The step that writes ``path``, or the run that a checkpoint of that path lies in."""
    for step in recipe.steps.values():
        out: Path | None = getattr(step, "out", None)
        if out is not None and (path == out or (isinstance(step, Train) and out in path.parents)):
            return step
    return None


def _rows(file: Path) -> int:
    """The largest id + 1, which is more than the tokens where ids have holes."""
    document = _json(file)
    held = document.get("model", {}).get("vocab", {})
    ids = list(held.values()) if isinstance(held, dict) else list(range(len(held)))
    ids += [token["id"] for token in document.get("added_tokens", [])]
    if not ids:
        raise UserError(f"{file} has no tokens")
    return int(max(ids)) + 1


def _cached(name: str, file: str) -> Path | None:
    """A file of a hub id in the local cache; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(document, dict):
        raise UserError(f"{file} holds no JSON object")
    return document
