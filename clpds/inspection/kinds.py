"""What each kind of folder or file says of itself, read from headers and small files."""

import re
from collections import Counter
from pathlib import Path

from clpds import manifest, provenance
from clpds.errors import UserError
from clpds.gguf_header import read_header
from clpds.inspection.rows import Rows, read_json, shares
from clpds.inspection.tokenizer import tokenizer
from clpds.output import human_bytes
from clpds.run_folder import TRAINER, read_metrics

OPTIMIZER = re.compile(r"zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt$")


def gguf(path: Path) -> Rows:
    """A GGUF file, from its header."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    header = read_header(path)
    fields, tensors = header.fields, header.tensors
    kinds = {int(kind): kind.name for kind in GGMLQuantizationType}
    block = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    architecture = header.text("general.architecture")
    names = {"layers": "block_count", "hidden": "embedding_length", "heads": "attention.head_count",
             "positions": "context_length"}  # fmt: skip
    shape = [
        f"{header.number(key):,} {what}" for what, name in names.items() if (key := f"{architecture}.{name}") in fields
    ]
    elements: Counter[str] = Counter()
    for name, (count, kind, start) in tensors.items():
        if kind not in block:
            raise UserError(f"{path}: tensor {name} is of type {kind}, which is not known; is the file damaged?")
        if start + count // block[kind][0] * block[kind][1] > path.stat().st_size:
            raise UserError(f"{path} is no whole GGUF file (it ends before tensor {name} does); fetch it again")
        elements[kinds[kind]] += count
    facts = [("kind", f"GGUF file, {architecture}")]
    if "general.name" in fields:
        facts.append(("name", header.text("general.name")))
    return [
        *facts,
        ("shape", ", ".join(shape)),
        ("parameters", f"{elements.total():,}, {shares(elements)}"),
        ("size", human_bytes(path.stat().st_size)),
        ("vocabulary", f"{header.length('tokenizer.ggml.tokens'):,} tokens ({header.text('tokenizer.ggml.model')})"),
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
