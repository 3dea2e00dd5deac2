"""CLP-Transfer against WECHSEL and fresh weights: Ostendorff & Rehm 2023, arXiv 2301.09626."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from clpds.report.measure import Spread, total_flops
from clpds.report.result import Result
from clpds.reproduction.decoders import SIZES, Size, arms, helper_recipe, language_recipe, source_recipe
from clpds.reproduction.lab import Lab
from clpds.reproduction.race import Raced, race
from clpds.reproduction.savings import HEADER, Savings, figures, numbers, row, savings, table

LABELS = {
    "random": "fresh weights",
    "wechsel": "WECHSEL",
    "clp": "CLP, as published",
    "clp-auto": "CLP, weighting: auto",
}
PART, NAME = 4, "quarter"
"""Arms train a second time, for one part of the steps: in the middle of a long schedule the rate is still high, which
blurs where an arm started."""


def clp(lab: Lab) -> Result:
    """Steps that each first checkpoint saves on the way to the loss that fresh weights end with."""
    size = SIZES[lab.size]
    lab.write_texts(["en", "de"])
    start, source = source_recipe(lab, size)
    language, target = language_recipe(lab, size, "de")
    lab.run("the German inputs", [language])
    lab.run("the English model and the German helper", [start, helper_recipe(lab, size, target)])
    fresh = source.with_suffix(".json")
    starts: dict[str, str | Path] = {"random": fresh, "wechsel": wechsel_options(source, target), **clp_options(target)}
    raced = race(lab, arms(lab, size, source, target, starts), dict.fromkeys(starts, size.rates))
    moved = {name: start for name, start in starts.items() if name != "random"}
    short = race(lab, arms(lab, size, source, target, moved, part=PART), dict.fromkeys(moved, size.rates))
    helper = total_flops(target / "helper-run")
    return _result(lab, size, savings(raced, "random"), short, helper)


def wechsel_options(source: Path, target: Path) -> str:
    """Of `clpds init`, in a recipe's words."""
    return (
        f"method: wechsel, tokenizer: {target}/tokenizer, source_embeddings: {source}/words, "
        f"target_embeddings: {target}/words, dictionary: {target}/dictionary.txt"
    )


def clp_options(target: Path) -> dict[str, str]:
    """Of `clpds init`, in a recipe's words, by arm."""
    published = f"method: clp, helper: {target}/helper"
    return {"clp": published, "clp-auto": f"{published}, weighting: auto"}


def _result(lab: Lab, size: Size, saved: dict[str, Savings], short: dict[str, Raced], helper: float) -> Result:
    best = saved["clp-auto"]
    fresh = saved["random"].raced
    said = [f"{LABELS[name]} {arm.said()}" for name, arm in saved.items() if name != "random"]
    ends = [f"{LABELS[name]} {Spread(arm.lasts).said('.3f')}" for name, arm in short.items()]
    return Result(
        title="CLP-Transfer: an English decoder moved to German",
        paper="Ostendorff & Rehm 2023, arXiv 2301.09626",
        published=(
            "Up to 80 % of the training steps saved against fresh weights, and better than cross-lingual transfer "
            "alone (WECHSEL)."
        ),
        measured=(
            f"Steps saved on the way to the last loss of fresh weights: {'; '.join(said)}. Last loss after a {NAME} of "
            f"the steps, with a schedule of that length: {'; '.join(ends)}; that of fresh weights after all steps: "
            f"{Spread(fresh.lasts).said('.3f')}. Training the helper cost {helper / fresh.flops:.0%} of what an arm "
            "costs; it is not counted."
        ),
        shown=best.beats(saved["wechsel"]) and best.least > 0,
        header=HEADER,
        rows=table(saved, LABELS) + [_short_row(name, arm, fresh) for name, arm in short.items()],
        figures=figures(saved, LABELS, "German"),
        settings=[
            ("models", f"Llama, {size.layers} layers, width {size.width}, {size.vocabulary:,} pieces"),
            ("source", f"English, {size.source_steps} steps of 16 x 128 tokens"),
            ("helper", f"German, 2 layers, width {size.helper_width}, {size.helper_steps} steps"),
            (
                "arms",
                f"{size.steps} steps of 16 x 128 tokens each, or a {NAME} of these; the same blocks in the same order, "
                "a cosine schedule of that length",
            ),
            lab.said_of_text("three English versions, one German"),
            ("tuning", f"each arm at the best of the rates {', '.join(f'{r:g}' for r in size.rates)} (seed 0)"),
            ("seeds", f"{lab.seeds}; ± is the standard deviation, the band the range"),
        ],
        numbers={"settings": asdict(size), "helper_flops": helper, "arms": numbers(saved), NAME: _short_numbers(short)},
    )


def _short_row(name: str, arm: Raced, fresh: Raced) -> list[str]:
    """Of the table: what it saves where it reaches the last loss of fresh weights."""
    reached = sum(mine <= goal for mine, goal in zip(arm.lasts, fresh.lasts, strict=True))
    saved = f"{1 - 1 / PART:.0%}: {reached} of {len(arm.runs)} reach it"
    return row(f"{LABELS[name]}, a {NAME} of the steps", arm, saved)


def _short_numbers(short: dict[str, Raced]) -> dict[str, Any]:
    return {name: {"lr": arm.lr, "lr_tried": arm.tried, "last": list(arm.lasts)} for name, arm in short.items()}
