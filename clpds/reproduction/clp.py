"""CLP-Transfer against WECHSEL and fresh weights: Ostendorff & Rehm 2023, arXiv 2301.09626."""

from dataclasses import asdict
from pathlib import Path

from clpds.report.measure import total_flops
from clpds.report.result import Result
from clpds.reproduction.decoders import MOVED, Size, arms, moved
from clpds.reproduction.lab import Lab
from clpds.reproduction.race import race
from clpds.reproduction.savings import HEADER, Savings, figures, numbers, savings, table

LABELS = {
    "random": "fresh weights",
    "wechsel": "WECHSEL",
    "clp": "CLP, as published",
    "clp-auto": "CLP, weighting: auto",
}


def clp(lab: Lab) -> Result:
    """Steps that each first checkpoint saves on the way to the loss that fresh weights end with."""
    size = MOVED[lab.size]
    lab.write_texts(["en", "de"])
    source, targets = moved(lab, size, ["de"], helper=True)
    target = targets["de"]
    fresh = source.with_suffix(".json")
    starts: dict[str, str | Path] = {"random": fresh, "wechsel": wechsel_options(source, target), **clp_options(target)}
    raced = race(lab, arms(lab, size, source, target, starts), dict.fromkeys(starts, size.rates))
    helper = total_flops(target / "helper-run")
    return _result(lab, size, savings(raced, "random"), helper)


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


def _result(lab: Lab, size: Size, saved: dict[str, Savings], helper: float) -> Result:
    best = saved["clp-auto"]
    fresh = saved["random"].raced
    said = [f"{LABELS[name]} {arm.said()}" for name, arm in saved.items() if name != "random"]
    return Result(
        title="CLP-Transfer: an English decoder moved to German",
        paper="Ostendorff & Rehm 2023, arXiv 2301.09626",
        published=(
            "Up to 80 % of the training steps saved against fresh weights, and better than cross-lingual transfer "
            "alone (WECHSEL)."
        ),
        measured=(
            f"Steps saved on the way to the last loss of fresh weights: {'; '.join(said)}. Training the helper cost "
            f"{helper / fresh.flops:.0%} of what an arm costs; it is not counted."
        ),
        shown=best.beats(saved["wechsel"]) and best.least > 0,
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
