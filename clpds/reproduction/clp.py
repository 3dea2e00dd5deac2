"""CLP-Transfer against WECHSEL and fresh weights: Ostendorff & Rehm 2023, arXiv 2301.09626."""

from dataclasses import asdict
from pathlib import Path

from clpds.report.measure import total_flops
from clpds.report.result import Result
from clpds.reproduction.decoders import SIZES, Size, arms, language_recipe, source_recipe
from clpds.reproduction.lab import Lab
from clpds.reproduction.race import race
from clpds.reproduction.savings import HEADER, Savings, figures, numbers, savings, table

LABELS = {
    "random": "fresh weights",
    "wechsel": "WECHSEL",
    "clp": "CLP, as published",
    "clp-auto": "CLP, weighting: auto",
    "clp-ridge": "CLP, weighting: ridge, ridge: 0.001",
}


def clp(lab: Lab) -> Result:
    """Steps that each first checkpoint saves on the way to the loss that fresh weights end with."""
    size = SIZES[lab.size]
    lab.write_texts(["en", "de"])
    start, source = source_recipe(lab, size)
    language, target = language_recipe(lab, size, "de", helper=True)
    lab.run("the English model and the German helper", [start, language])
    fresh = source.with_suffix(".json")
    starts: dict[str, str | Path] = {"random": fresh, "wechsel": wechsel_options(source, target), **clp_options(target)}
    raced = race(lab, arms(lab, size, source, target, starts), size.rates)
    saved = savings(raced, "random")
    helper = total_flops(target / "helper-run")
    return _result(lab, size, saved, helper)


def wechsel_options(source: Path, target: Path) -> str:
    """Of `clpds init`, in a recipe's words."""
    return (
        f"method: wechsel, tokenizer: {target}/tokenizer, source_embeddings: {source}/words, "
        f"target_embeddings: {target}/words, dictionary: {target}/dictionary.txt"
    )


def clp_options(target: Path) -> dict[str, str]:
    """Of `clpds init`, in a recipe's words, by arm."""
    published = f"method: clp, helper: {target}/helper"
    return {
        "clp": published,
        "clp-auto": f"{published}, weighting: auto",
        "clp-ridge": f"{published}, weighting: ridge, ridge: 0.001",
    }


def _result(lab: Lab, size: Size, saved: dict[str, Savings], helper: float) -> Result:
    best, wechsel = max(saved["clp-auto"], saved["clp-ridge"], key=lambda arm: sum(arm.shares)), saved["wechsel"]
    total = saved["random"].raced.flops
    return Result(
        title="CLP-Transfer: an English decoder moved to German",
        paper="Ostendorff & Rehm 2023, arXiv 2301.09626",
        published=(
            "Up to 80 % of the training steps saved against fresh weights, and better than cross-lingual transfer "
            "alone (WECHSEL)."
        ),
        measured=(
            "Steps saved on the way to the last loss of fresh weights: CLP as published "
            f"{saved['clp'].said()}, with the weighting that auto picks {saved['clp-auto'].said()}, with ridge "
            f"{saved['clp-ridge'].said()}, WECHSEL {wechsel.said()}. Training the helper cost {helper / total:.0%} of "
            "what an arm costs; it is not counted."
        ),
        shown=best.beats(wechsel) and best.least > 0,
        header=HEADER,
        rows=table(saved, LABELS),
        figures=figures(saved, LABELS, "German"),
        settings=[
            ("models", f"Llama, {size.layers} layers, width {size.width}, {size.vocabulary:,} pieces"),
            ("source", f"English, {size.source_steps} steps of 16 x 128 tokens"),
            ("helper", f"German, 2 layers, width {size.helper_width}, {size.helper_steps} steps"),
            (
                "arms",
                f"{size.steps} steps of 16 x 128 tokens each, the same blocks in the same order, a cosine schedule",
            ),
            lab.said_of_text("three English versions, one German"),
            ("tuning", f"each arm at the best of the rates {', '.join(f'{r:g}' for r in size.rates)} (seed 0)"),
            ("seeds", f"{lab.seeds}; ± is the standard deviation, the band the range"),
        ],
        numbers={"settings": asdict(size), "helper_flops": helper, "arms": numbers(saved)},
    )
