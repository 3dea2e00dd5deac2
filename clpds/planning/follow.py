"""The config, the vocabulary and the sequence length of a stage before its inputs are made.

What exists is read. What does not is the output of an earlier step of the recipe, and that step
says what it will be.
"""

import re
from pathlib import Path
from typing import Any, get_args

from clpds import provenance
from clpds.bounds import RECORD, SETTINGS, VOCABULARY_FILE
from clpds.errors import UserError
from clpds.inside import read_json, require_own
from clpds.model_counts import require_counts, require_ids
from clpds.planning.encoders import CLASSIFYING
from clpds.planning.fields import check_config, whole
from clpds.planning.gguf_config import gguf_config
from clpds.planning.size import FAMILIES
from clpds.recipe import Convert, Data, Init, Pairs, Recipe, Step, Tokenizer, Train
from clpds.recipe.transfer import RowsMethod
from clpds.refusals import require_given
from clpds.resources import find

DEPTH = "num_hidden_layers"


def stage_config(recipe: Recipe, stage: Train) -> dict[str, Any]:
    """What config.json of the stage's model says or will say; UserError that names what to fetch."""
    if stage.model.suffix == ".json":
        config = _config(find("recipes", stage.model)) | {"vocab_size": data_vocabulary(recipe, stage)}
    else:
        config = model_config(recipe, stage.model)
    return _classifier(config, stage) if stage.objective == "classification" else config


def model_config(recipe: Recipe, model: Path) -> dict[str, Any]:
    """The config of a folder, a GGUF file, a hub id that was downloaded before, or the output of a step."""
    if (model / "config.json").is_file():
        return _own_config(model / "config.json")
    if model.suffix == ".gguf" and model.is_file():
        return gguf_config(model)
    match _maker(recipe, model):
        case Init() as step:
            return _made(recipe, step)
        case Convert() as step:
            return model_config(recipe, step.model) | ({"dtype": step.dtype} if step.dtype else {})
        case Train() as step:
            return stage_config(recipe, step)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model)) and not model.exists():
        cached = _cached(str(model), "config.json")
        if cached:
            return _own_config(cached)
    raise UserError(
        f"{model} is not there and no step of {recipe.path} makes it; fetch it first, "
        "or name a config.json as the stage's model"
    )


def _made(recipe: Recipe, step: Init) -> dict[str, Any]:
    """What a method makes of its source's config."""
    config = model_config(recipe, step.source)
    if step.grows:
        config = _grown(config, step)
    kind = str(config["model_type"])
    match step.method:
        case "merge" | "grow":
            return config
        case "plug":
            assert step.embeddings is not None  # recipe.NEEDS
            return config | {"vocab_size": model_config(recipe, step.embeddings)["vocab_size"]}
        case "minijoint":
            return config | {"model_type": f"{kind}-minijoint", "architectures": None}
        case "primary" | "minimodel":
            config |= {"model_type": kind.removesuffix("-minijoint"), "architectures": None}
            if step.method == "primary":
                return config
            family = FAMILIES.get(kind)
            key = family.names.get(DEPTH, DEPTH) if family else DEPTH
            return config | {key: (step.take or 0) + step.new_layers, "layer_types": None}
    if step.makes_trilayer:
        config |= {"model_type": f"trelm-{kind}", "architectures": None}
    return config | {"vocab_size": -(-_new_vocabulary(recipe, step) // step.pad_to) * step.pad_to}


def vocabulary(recipe: Recipe, folder: Path) -> int:
    """Rows that an embedding needs for the tokenizer of a folder, or of the step that will write it."""
    if (folder / "tokenizer.json").is_file():
        return _rows(folder / "tokenizer.json")
    if folder.suffix == ".gguf" and folder.is_file():
        return int(gguf_config(folder)["vocab_size"])
    match _maker(recipe, folder):
        case Tokenizer() as step:
            return step.vocab_size
        case Init() as step:
            return _new_vocabulary(recipe, step)
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
        parameters, file = record.get("parameters"), folder / provenance.FILE
        return whole(
            parameters.get("sequence_length") if isinstance(parameters, dict) else None, "sequence_length", file
        )
    step = _maker(recipe, folder)
    if not isinstance(step, Data | Pairs):
        raise UserError(f"{folder} is no data folder and no step of {recipe.path} makes it; write it with `clpds data`")
    return step.sequence_length


def _new_vocabulary(recipe: Recipe, step: Init) -> int:
    """Rows for the tokenizer that a method gives its model; at most, where it extends the source's."""
    if step.embeddings is not None:
        return vocabulary(recipe, step.embeddings)
    if step.method not in get_args(RowsMethod):
        return vocabulary(recipe, step.source)
    target = step.tokenizer or step.helper
    if target is None:
        raise UserError(f"the step that makes {step.out} names neither tokenizer nor helper; give one")
    return vocabulary(recipe, target) + (vocabulary(recipe, step.source) if step.extend else 0)


def _grown(config: dict[str, Any], step: Init) -> dict[str, Any]:
    """By the rules of growth themselves; they import transformers."""
    from transformers import AutoConfig

    from clpds.transfer.growth.plan import plan
    from clpds.transfer.growth.step import growth_of

    try:
        source = AutoConfig.for_model(**config)
    except Exception as error:  # whatever a config class makes of values that do not fit together
        raise UserError(f"{step.source}: {' '.join(str(error).split())}") from error
    grown: dict[str, Any] = plan(source, growth_of(step)).config.to_dict()
    return grown


def _classifier(config: dict[str, Any], stage: Train) -> dict[str, Any]:
    """With the classes of the stage's data, or two as long as that is not there."""
    family = CLASSIFYING.get(str(config.get("model_type")))
    if family is None or config.get("architectures") == [family.model_class]:
        return config
    config |= {"architectures": [family.model_class]}
    info = next(iter(stage.data.values())).path / "train" / "dataset_info.json"
    if not info.is_file():
        return config
    names: Any = _json(info, RECORD)
    for key in ("features", "label", "names"):
        names = names.get(key) if isinstance(names, dict) else None
    if not isinstance(names, list):
        raise UserError(f"{info} names no classes; write the data again")
    return config | {"id2label": dict(enumerate(names))}


def _maker(recipe: Recipe, path: Path) -> Step | None:
    """The step that writes ``path``, or the run that a checkpoint of that path lies in."""
    for step in recipe.steps.values():
        out: Path | None = getattr(step, "out", None)
        if out is not None and (path == out or (isinstance(step, Train) and out in path.parents)):
            return step
    return None


def _rows(file: Path) -> int:
    """The largest id + 1, which is more than the tokens where ids have holes."""
    require_own(file, VOCABULARY_FILE)
    document = _json(file, VOCABULARY_FILE)
    try:
        held = (document.get("model") or {}).get("vocab") or {}
        ids = list(held.values()) if isinstance(held, dict) else list(range(len(held)))
        ids += [token["id"] for token in document.get("added_tokens") or []]
    except (AttributeError, TypeError, KeyError) as error:
        raise UserError(f"{file} is no tokenizer as the library tokenizers writes it ({error!r})") from error
    if not ids:
        raise UserError(f"{file} has no tokens")
    wrong = [id_ for id_ in ids if type(id_) is not int or id_ < 0]
    if wrong:
        raise UserError(f"{file} has a token whose id is {wrong[0]!r}; expected a whole number")
    require_ids(file, ids)
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


def _own_config(file: Path) -> dict[str, Any]:
    require_own(file, SETTINGS)
    return _config(file)


def _config(file: Path) -> dict[str, Any]:
    config = _json(file, SETTINGS)
    check_config(config, file)
    try:
        require_counts(config)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    return config


def _json(file: Path, limit: int) -> dict[str, Any]:
    try:
        document = read_json(file, limit)
    except (OSError, ValueError, RecursionError) as error:
        require_given(file, error)
        raise UserError(f"{file} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(document, dict):
        raise UserError(f"{file} holds no JSON object")
    return document
