"""What each kind of folder or file says of itself, read from headers and small files."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from clpds import manifest, provenance
from clpds.checkpoint import anatomy, open_checkpoint
from clpds.errors import UserError
from clpds.output import human_bytes
from clpds.run_folder import TRAINER, read_metrics
from clpds.vocabulary.pieces import special_tokens
from clpds.vocabulary.tokenizer import backend, load_tokenizer, rows_needed, token_ids

Rows = list[tuple[str, str]]
SHAPE = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "positions": "max_position_embeddings",
}
SPECIAL = {role: f"{role}_token_id" for role in ("bos", "eos", "pad")}
OPTIMIZER = re.compile(r"zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt$")


def model(path: Path) -> Rows:
    """A folder or hub id that `open_checkpoint` opens; UserError where tensors are missing or misshapen."""
    checkpoint = open_checkpoint(path)
    parts, config = anatomy(checkpoint.config), checkpoint.config.get_text_config()
    elements: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        elements[str(tensor.dtype).removeprefix("torch.")] += tensor.numel
    count = sum(checkpoint.tensors[name].numel for name in parts.parameters)
    shards = len({tensor.origin for tensor in checkpoint.tensors.values()})
    rows = checkpoint.tensors[parts.input_embedding].shape[0]
    facts = [
        ("kind", f"model, {parts.model_class.__name__}"),
        ("shape", ", ".join(_present(config, SHAPE))),
        ("parameters", f"{count:,}, {_shares(elements)}"),
        ("size", f"{human_bytes(checkpoint.nbytes)} in {shards} {'file' if shards == 1 else 'shards'}"),
        ("vocabulary", f"{rows:,} rows, input and output {'tied' if parts.output_embedding is None else 'untied'}"),
        ("special ids", ", ".join(_present(config, SPECIAL)) or "none"),
    ]
    if checkpoint.tokenizer_folder is None:
        return [*facts, ("tokenizer", "none")]
    return [*facts, *tokenizer(checkpoint.tokenizer_folder)]


def gguf(path: Path) -> Rows:
    """A GGUF file, from its header."""
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no GGUF file that can be read: {' '.join(str(error).split())}") from error
    values = {name: reader.fields[name] for name in reader.fields}
    architecture = values["general.architecture"].contents()
    names = {"layers": "block_count", "hidden": "embedding_length", "heads": "attention.head_count",
             "positions": "context_length"}  # fmt: skip
    shape = [
        f"{values[key].contents():,} {what}"
        for what, name in names.items()
        if (key := f"{architecture}.{name}") in values
    ]
    elements: Counter[str] = Counter()
    for tensor in reader.tensors:
        elements[tensor.tensor_type.name] += int(tensor.n_elements)
    facts = [("kind", f"GGUF file, {architecture}")]
    if "general.name" in values:
        facts.append(("name", values["general.name"].contents()))
    return [
        *facts,
        ("shape", ", ".join(shape)),
        ("parameters", f"{elements.total():,}, {_shares(elements)}"),
        ("size", human_bytes(path.stat().st_size)),
        (
            "vocabulary",
            f"{len(values['tokenizer.ggml.tokens'].data):,} tokens ({values['tokenizer.ggml.model'].contents()})",
        ),
    ]


def tokenizer(folder: Path) -> Rows:
    """Family, size and special tokens."""
    loaded = load_tokenizer(folder)
    count, rows = len(token_ids(loaded)), rows_needed(loaded)
    holes = f", ids up to {rows - 1:,}" if rows > count else ""
    specials = [f"{token} {id_}" for id_, token in special_tokens(loaded).items()]
    more = f" and {len(specials) - 8} more" if len(specials) > 8 else ""
    return [
        ("tokenizer", f"{_family(backend(loaded))}, {count:,} tokens{holes}"),
        ("special tokens", (", ".join(specials[:8]) or "none") + more),
    ]


def data(folder: Path) -> Rows:
    """A folder of `clpds data`."""
    record = provenance.read(folder) or {}
    rows = [("kind", f"data set, blocks of {record['parameters']['sequence_length']:,} tokens")]
    for split, count in record["splits"].items():
        rows.append(
            (
                split,
                f"{count['blocks']:,} blocks, {count['tokens']:,} tokens, {count['documents']:,} documents, "
                f"{count['bytes'] / count['tokens']:.2f} bytes a token",
            )
        )
    return [*rows, *tokenizer(folder / "tokenizer")]


def pairs(folder: Path) -> Rows:
    """A folder of `clpds pairs`."""
    record = provenance.read(folder) or {}
    direction = "second language to first" if record["parameters"]["reverse"] else "first language to second"
    rows = [("kind", f"aligned sentence pairs, {direction}")]
    for split, count in record["splits"].items():
        rows.append(
            (
                split,
                f"{count['pairs']:,} pairs, {count['source_tokens']:,} and {count['target_tokens']:,} tokens, "
                f"{count['unaligned'] / count['target_tokens']:.0%} of the latter unaligned",
            )
        )
    return [*rows, *tokenizer(folder / "tokenizer")]


def embeddings(folder: Path) -> Rows:
    """A folder of `clpds embeddings`."""
    record = provenance.read(folder) or {}
    dimension = record["parameters"]["dimension"]
    return [
        ("kind", "static word embeddings (fastText)"),
        ("words", f"{record['words']:,}, {dimension:,} dimensions, from {record['documents']:,} documents"),
    ]


def run(folder: Path) -> Rows:
    """A folder of `clpds train`."""
    stage = read_json(folder / "stage.json")
    saved = checkpoints(folder)
    done = read_json(saved[-1] / TRAINER) if saved else {"step": 0, "tokens": 0, "finished": False}
    corpora = ", ".join(f"{name} (weight {corpus['weight']:g})" for name, corpus in stage["data"].items())
    state = "finished" if done["finished"] else "not finished"
    return [
        ("kind", f"training run, {stage['objective']} objective"),
        ("model", stage["model"]),
        ("data", corpora),
        ("saved", f"step {done['step']:,} of {stage['steps']:,}, {done['tokens']:,} predicted tokens, {state}"),
        *_last_losses(folder),
        ("checkpoints", ", ".join(checkpoint.name for checkpoint in saved) or "none yet"),
    ]


def is_zero(folder: Path) -> bool:
    """Whether this is a DeepSpeed checkpoint, ours or another program's."""
    return folder.is_dir() and any(OPTIMIZER.search(path.name) for path in folder.iterdir())


def zero(folder: Path) -> Rows:
    """A DeepSpeed checkpoint: the folder that holds the files of the ranks."""
    files = [path for path in folder.iterdir() if path.is_file()]
    ranks = len({match[1] for path in files if (match := OPTIMIZER.search(path.name))})
    sliced = any(path.name.startswith("zero_pp_rank_") and "model_states" in path.name for path in files)
    rows = [
        ("kind", f"DeepSpeed checkpoint, {'ZeRO-3' if sliced else 'ZeRO-1 or ZeRO-2'}, world size {ranks}"),
        ("size", f"{human_bytes(sum(path.stat().st_size for path in files))} in {len(files)} files"),
    ]
    if not (folder / TRAINER).is_file():
        return [*rows, ("integrity", "unknown: not written by clpds, without a manifest")]
    trainer = read_json(folder / TRAINER)
    state = "the last of its run" if trainer["finished"] else f"of {trainer['stage']['steps']:,}"
    return [*rows, ("step", f"{trainer['step']:,}, {state}, {trainer['tokens']:,} predicted tokens")]


def checkpoints(run_folder: Path) -> list[Path]:
    """The run's checkpoints by step; one without a manifest was never finished, or is being removed."""
    return sorted(file.parent for file in (run_folder / "checkpoints").glob(f"step-????????/{manifest.FILE}"))


def _last_losses(folder: Path) -> Rows:
    lines = read_metrics(folder)
    training = [line for line in lines if "loss" in line]
    validation = [line for line in lines if "validation" in line]
    rows = [("loss", f"{training[-1]['loss']:.4f} at step {training[-1]['step']:,}")] if training else []
    for corpus, numbers in validation[-1]["validation"].items() if validation else ():
        bits = f", {numbers['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in numbers else ""
        rows.append((f"validation {corpus}", f"{numbers['loss']:.4f}{bits}, at step {validation[-1]['step']:,}"))
    return rows


def _present(config: Any, names: Mapping[str, str]) -> list[str]:
    """``30 layers`` or ``eos 1`` for those that the config has."""
    values = {what: getattr(config, name, None) for what, name in names.items()}
    return [
        f"{what} {value}" if names[what].endswith("_id") else f"{value:,} {what}"
        for what, value in values.items()
        if value is not None
    ]


def _shares(elements: Counter[str]) -> str:
    """``bfloat16``, or ``bfloat16 99 %, float32 1 %``."""
    if len(elements) == 1:
        return next(iter(elements))
    return ", ".join(f"{kind} {number / elements.total():.0%}" for kind, number in elements.most_common())


def _family(pipeline: dict[str, Any]) -> str:
    kind = pipeline["model"]["type"]
    if kind == "BPE" and '"ByteLevel"' in json.dumps(pipeline):
        return "byte-level BPE"
    return f"{kind} with byte fallback" if pipeline["model"].get("byte_fallback") else kind


def read_json(path: Path) -> dict[str, Any]:
    """A file that clpds wrote."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return document
