"""Small-to-large transfer against fresh weights: Zhang 2021, arXiv 2104.11390."""

from dataclasses import asdict, replace
from pathlib import Path

from clpds.report.measure import Spread
from clpds.report.result import Result
from clpds.reproduction.configs import decoder_config
from clpds.reproduction.decoders import SIZES, arms, source_recipe
from clpds.reproduction.lab import Lab
from clpds.reproduction.race import race
from clpds.reproduction.savings import HEADER, figures, numbers, savings, table

LABELS = {
    "random": "large, fresh weights",
    "grown": "large, grown from the small one",
    "on": "the small one, trained on",
}


def growth(lab: Lab) -> Result:
    """Where training starts, and where it ends: grown, from fresh weights, and the small model trained on."""
    large = SIZES[lab.size]
    small = replace(large, width=large.width // 2, layers=large.layers // 2)
    lab.write_texts(["en"])
    start, source = source_recipe(lab, small, "small")
    lab.run("the small model", [start])
    fresh = decoder_config(source.parent, f"large-{lab.size}", width=large.width, layers=large.layers)
    grown = f"method: grow, width: {large.width}, depth: {large.layers}"
    starts: dict[str, str | Path] = {"random": fresh, "grown": grown, "on": source / "english"}
    raced = race(lab, arms(lab, large, source, source, starts), dict.fromkeys(starts, large.rates))
    saved = savings(raced, "random")
    before = Spread(tuple(float(curve.quality[0]) for curve in raced["grown"].curves))
    own = Spread(tuple(float(curve.quality[0]) for curve in raced["on"].curves))
    last = {name: arm.lasts for name, arm in raced.items()}
    better = Spread(tuple(a - b for a, b in zip(last["random"], last["grown"], strict=True)))
    beyond = Spread(tuple(a - b for a, b in zip(last["on"], last["grown"], strict=True)))
    return Result(
        title="Small to large: an English decoder grown",
        paper="Zhang 2021, arXiv 2104.11390",
        published=(
            "Training starts from the small model's loss; the grown model is comparable to or better than one trained "
            "from scratch."
        ),
        measured=(
            f"The grown model starts at {before.said('.3f')} nats a token, the small one has {own.said('.3f')}. After "
            f"the same steps it is {better.said('.3f')} nats below fresh weights and {beyond.said('.3f')} below the "
            "small one trained on."
        ),
        shown=abs(before.mean - own.mean) < 1e-3 and min(better.values) > 0,
        header=HEADER,
        rows=table(saved, LABELS),
        figures=figures(saved, LABELS, "English"),
        settings=[
            (
                "small",
                f"Llama, {small.layers} layers, width {small.width}, {small.source_steps} steps of 16 x 128 tokens",
            ),
            ("large", f"{large.layers} layers, width {large.width}"),
            (
                "arms",
                f"{large.steps} steps of 16 x 128 tokens each, the same blocks in the same order, a cosine schedule",
            ),
            lab.said_of_text("three English versions"),
            ("tuning", f"each arm at the best of the rates {', '.join(f'{r:g}' for r in large.rates)} (seed 0)"),
            ("seeds", f"{lab.seeds}; ± is the standard deviation, the band the range"),
        ],
        numbers={"settings": asdict(large), "arms": numbers(saved)},
    )
