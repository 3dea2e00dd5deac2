"""WECHSEL against fresh weights, in four languages: Minixhofer, Paischer & Rekabsaz 2022, arXiv 2112.06598."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from clpds.report.result import Result
from clpds.reproduction.clp import wechsel_options
from clpds.reproduction.decoders import MOVED, arms, moved
from clpds.reproduction.lab import Lab
from clpds.reproduction.race import race
from clpds.reproduction.savings import HEADER, Savings, figures, numbers, savings, table

LANGUAGES = {"de": "German", "fr": "French", "ru": "Russian", "tl": "Tagalog"}
TOY = ("de",)


def wechsel(lab: Lab) -> Result:
    """The training effort, in steps, that WECHSEL saves in each language."""
    size = MOVED[lab.size]
    languages = TOY if lab.size == "toy" else tuple(LANGUAGES)
    lab.write_texts(["en", *languages])
    source, targets = moved(lab, size, languages)
    saved: dict[str, dict[str, Savings]] = {}
    rates: dict[str, Sequence[float]] = dict.fromkeys(("random", "wechsel"), size.rates)
    for language, target in targets.items():
        starts: dict[str, str | Path] = {
            "random": source.with_suffix(".json"),
            "wechsel": wechsel_options(source, target),
        }
        raced = race(lab, arms(lab, size, source, target, starts), rates)
        saved[language] = savings(raced, "random")
        rates = {name: [arm.lr] for name, arm in raced.items()}  # those of the first language, for all
    rows, drawn, said = [], [], []
    for language, arm in saved.items():
        labels = {"random": f"{LANGUAGES[language]}: fresh weights", "wechsel": f"{LANGUAGES[language]}: WECHSEL"}
        rows += table(arm, labels)
        drawn += figures(arm, labels, LANGUAGES[language])[:1]
        said.append(f"{LANGUAGES[language]} {arm['wechsel'].times()}")
    return Result(
        title="WECHSEL: an English decoder moved to four languages",
        paper="Minixhofer, Paischer & Rekabsaz 2022, arXiv 2112.06598",
        published="Up to 64 times less training effort than training a model of the same size from scratch.",
        measured=f"Less training effort to the last loss of fresh weights: {', '.join(said)}.",
        shown=all(arm["wechsel"].least > 0 for arm in saved.values()),
        header=HEADER,
        rows=rows,
        figures=drawn,
        settings=[
            ("models", f"Llama, {size.layers} layers, width {size.width}, {size.vocabulary:,} pieces"),
            ("source", f"English, {size.source_steps} steps of 16 x 128 tokens"),
            ("word embeddings", "fastText vectors of the same text; dictionary from the aligned verses"),
            (
                "arms",
                f"{size.steps} steps of 16 x 128 tokens each, the same blocks in the same order, a cosine schedule",
            ),
            lab.said_of_text("three English versions, two French, one of each other language"),
            (
                "tuning",
                f"fresh weights and WECHSEL each at the best of the rates {', '.join(f'{r:g}' for r in size.rates)} "
                f"(seed 0, {LANGUAGES[languages[0]]})",
            ),
            ("seeds", f"{lab.seeds}; ± is the standard deviation, the band the range"),
        ],
        numbers={"settings": asdict(size), "languages": {language: numbers(arm) for language, arm in saved.items()}},
    )
