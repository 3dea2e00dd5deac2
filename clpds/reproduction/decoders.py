"""What the claims about decoders share: the English model, a language's inputs, and arms that start from either."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from clpds.reproduction.configs import decoder_config
from clpds.reproduction.lab import Lab
from clpds.reproduction.race import Arm


@dataclass(frozen=True)
class Size:
    """What the measurements are made of."""

    width: int
    layers: int
    vocabulary: int
    source_steps: int
    helper_width: int
    helper_steps: int
    steps: int
    """Of every arm, in the target's language."""
    every: int
    """Steps between two measurements."""
    blocks: int = 128
    """Of held-out text in a measurement."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 6e-3)
    source_lr: float = 3e-3


SIZES = {
    "toy": Size(64, 2, 1024, 150, 32, 60, 60, 5, rates=(6e-3,)),
    "small": Size(128, 4, 4096, 2500, 64, 1600, 400, 10),
}

MOVED = SIZES | {"small": replace(SIZES["small"], source_steps=1600, steps=200, blocks=64)}
"""Of arms that learn another language: there are many of them."""


def source_recipe(lab: Lab, size: Size, name: str = "decoder") -> tuple[Path, Path]:
    """The recipe of an English model, and its folder; claims of one size share it."""
    folder = lab.shared / "sources" / f"{name}-{lab.size}"
    config = decoder_config(folder.parent, folder.name, width=size.width, layers=size.layers)
    recipe = lab.recipe(
        "decoder-source",
        "source",
        source=folder,
        config=config,
        vocabulary=size.vocabulary,
        steps=size.source_steps,
        lr=size.source_lr,
    )
    return recipe, folder


def language_recipe(lab: Lab, size: Size, language: str) -> tuple[Path, Path]:
    """The recipe of a language's inputs, and their folder; claims of one size share it."""
    folder = lab.shared / "sources" / f"{language}-{lab.size}"
    return lab.recipe(
        "decoder-language", language, target=folder, language=language, vocabulary=size.vocabulary
    ), folder


def helper_recipe(lab: Lab, size: Size, target: Path) -> Path:
    """The recipe of a language's helper, from its inputs in ``target``."""
    config = decoder_config(target.parent, f"helper-{lab.size}", width=size.helper_width, layers=2)
    return lab.recipe(
        "decoder-helper",
        f"{target.name}-helper",
        target=target,
        config=config,
        steps=size.helper_steps,
        lr=size.source_lr,
    )


def moved(lab: Lab, size: Size, languages: Sequence[str], *, helper: bool = False) -> tuple[Path, dict[str, Path]]:
    """Make the English model, with word embeddings, and each language's inputs: the folder of it and of each of these.

    Beside the model is trained what the first language does without it: fresh weights at every learning rate, and
    its helper if asked for.
    """
    start, source = source_recipe(lab, size)
    inputs = {language: language_recipe(lab, size, language) for language in languages}
    first, target = inputs[languages[0]]
    words = lab.recipe("decoder-words", "words", source=source)
    second = [helper_recipe(lab, size, target)] if helper else []
    fresh = arms(lab, size, source, target, {"random": source.with_suffix(".json")})["random"]
    second += [fresh(lr, 0)[0] for lr in size.rates]
    recipes = [start, *(recipe for recipe, _ in inputs.values()), words, *second]
    lab.run("the English model, and what does without it", recipes, after=dict.fromkeys(second, first))
    return source, {language: folder for language, (_, folder) in inputs.items()}


def arms(lab: Lab, size: Size, source: Path, target: Path, starts: Mapping[str, str | Path]) -> dict[str, Arm]:
    """An arm for each name: from a model or config, or from the options of a `clpds init`, which is done now.

    Claims of one size share arms: fresh weights and WECHSEL in German are trained once.
    """
    folder = lab.shared / f"arms-{lab.size}" / target.name
    inits = {name: start for name, start in starts.items() if isinstance(start, str)}
    if inits:
        recipe = lab.recipe("decoder-start", f"{target.name}-start", source=source, starts=folder, inits=inits)
        lab.run("first checkpoints", [recipe])

    def arm(name: str, lr: float, seed: int) -> tuple[Path, Path]:
        run = folder / f"{name}-{lr:g}-{seed}"
        path = lab.recipe(
            "decoder-arm",
            f"{target.name}-{run.name}",
            target=target,
            start=folder / name if name in inits else starts[name],
            steps=size.steps,
            every=size.every,
            blocks=size.blocks,
            lr=lr,
            seed=seed,
            out=run,
        )
        return path, run

    return {name: partial(arm, name) for name in starts}
