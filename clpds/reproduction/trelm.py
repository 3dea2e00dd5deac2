"""TreLM against the same model from fresh weights: Li et al. 2021, arXiv 2107.12627."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from clpds.recipe import Train
from clpds.report.measure import Spread, total_flops
from clpds.report.result import Figure, Line, Result
from clpds.reproduction.configs import encoder_config
from clpds.reproduction.lab import Lab
from clpds.reproduction.race import Raced, race
from clpds.training.flops import step_flops
from clpds.vocabulary.tokenizer import load_tokenizer

BATCH, LENGTH = 16, 128  # of every stage, in the recipes
STAGES = ("commonality-run", "above-run", "below-run", "german-run")


@dataclass(frozen=True)
class Size:
    """What the measurement is made of."""

    width: int
    layers: int
    vocabulary: int
    """Of the English encoder; the joint one is twice as large."""
    source_steps: int
    commonality: int
    """Steps of the first stage, blocks frozen."""
    transfer: int
    """Steps of each of the two CdLM stages."""
    german: int
    """Steps of the last stage."""
    task_steps: int
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    source_lr: float = 1.5e-3
    task_lr: float = 5e-4


SIZES = {
    "toy": Size(64, 2, 1024, 600, 60, 80, 160, 150, rates=(2e-3,)),
    "small": Size(128, 4, 4096, 1200, 100, 120, 300, 300),
}


def trelm(lab: Lab) -> Result:
    """Perplexity and a task's accuracy, at the same German text and the same FLOPs."""
    size = SIZES[lab.size]
    lab.write_texts(["en", "de"])
    source = lab.shared / "sources" / f"trelm-{lab.size}"
    config = encoder_config(lab.folder, width=size.width, layers=size.layers)
    start = lab.recipe(
        "trelm-source", "source", source=source, config=config, vocabulary=size.vocabulary, steps=size.source_steps,
        lr=size.source_lr,
    )  # fmt: skip
    lab.run("the English model", [start])

    def transferred(lr: float, seed: int) -> tuple[Path, Path]:
        out = lab.folder / f"trelm-{lr:g}-{seed}"
        half = size.layers // 2
        layers = [str(layer) for layer in range(size.layers)]
        recipe = lab.recipe(
            "trelm", out.name, source=source, out=out, lr=lr, seed=seed, commonality=size.commonality,
            transfer=size.transfer, german=size.german, lower="".join(layers[:half]), upper="".join(layers[half:]),
        )  # fmt: skip
        return recipe, out / "german-run"

    raced = race(lab, {"trelm": transferred}, {"trelm": size.rates})
    steps = _equal_compute(raced["trelm"], config, source)

    def scratch(lr: float, seed: int) -> tuple[Path, Path]:
        out = lab.folder / f"scratch-{lr:g}-{seed}"
        recipe = lab.recipe(
            "trelm-scratch", out.name, source=source, config=config, out=out, steps=steps, lr=lr, seed=seed
        )
        return recipe, out / "german-run"

    raced |= race(lab, {"scratch": scratch}, {"scratch": size.rates})
    tasks = [
        lab.recipe(
            "trelm-task", f"task-{run.parent.name}", source=source, out=run.parent, steps=size.task_steps,
            lr=size.task_lr, seed=seed,
        )
        for arm in raced.values()
        for seed, run in enumerate(arm.runs)
    ]  # fmt: skip
    lab.run("the task in German", tasks)
    return _result(lab, size, raced, steps)


def _equal_compute(arm: Raced, config: Path, source: Path) -> int:
    """Steps from fresh weights that cost as many FLOPs as all stages of TreLM."""
    rows = len(load_tokenizer(source / "joint"))
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(config, vocab_size=rows))
    tokens = BATCH * LENGTH
    step = step_flops(model, LENGTH).of(tokens, round(Train.mask_share * tokens))
    return 10 * round(_flops(arm.runs[0].parent) / step / 10)


def _flops(folder: Path) -> float:
    """What all stages in an arm's folder have cost."""
    return sum(total_flops(folder / stage) for stage in STAGES if (folder / stage).is_dir())


def _result(lab: Lab, size: Size, raced: dict[str, Raced], steps: int) -> Result:
    labels = {"trelm": "TreLM", "scratch": "from fresh weights"}
    numbers: dict[str, Any] = {"settings": asdict(size), "scratch_steps": steps}
    rows, lines, loss, right = [], [], {}, {}
    for name, arm in raced.items():
        folders = [run.parent for run in arm.runs]
        curves = arm.curves
        before = [_flops(folder) - float(curve.flops[-1]) for folder, curve in zip(folders, curves, strict=True)]
        loss[name] = Spread(tuple(float(curve.quality[-1]) for curve in curves))
        right[name] = Spread(tuple(json.loads((folder / "task.json").read_text())["accuracy"] for folder in folders))
        flops = Spread(tuple(map(_flops, folders)))
        lines.append(
            Line(labels[name], [c.flops + b for c, b in zip(curves, before, strict=True)], [c.quality for c in curves])
        )
        numbers[name] = {
            "lr": arm.lr,
            "lr_tried": arm.tried,
            "loss": loss[name].values,
            "accuracy": right[name].values,
            "flops": flops.values,
            "curves": [
                {"flops": (c.flops + b).tolist(), "loss": c.quality.tolist()}
                for c, b in zip(curves, before, strict=True)
            ],
        }
        rows.append([labels[name], loss[name].said(), right[name].said(".1%"), f"{flops.mean:.2e}", f"{arm.lr:g}"])
    chance = json.loads((raced["trelm"].runs[0].parent / "task.json").read_text())["chance"]
    better = [loss["scratch"].values[s] - loss["trelm"].values[s] for s in range(lab.seeds)]
    more = [right["trelm"].values[s] - right["scratch"].values[s] for s in range(lab.seeds)]
    return Result(
        title="TreLM: an encoder moved to German",
        paper="Li, Zhao, Utiyama & Sumita 2021, arXiv 2107.12627",
        published="Better than the same model trained from scratch where target data is limited, and cheaper.",
        measured=(
            f"With the same German text and the same FLOPs, TreLM ends {Spread(tuple(better)).said()} nats a hidden "
            f"token lower and puts {Spread(tuple(100 * m for m in more)).said('.1f')} percentage points more verses "
            "into the right class "
            f"(chance {chance:.1%})."
        ),
        shown=min(better) > 0,
        header=["", "loss", "accuracy", "FLOPs", "rate"],
        rows=rows,
        figures=[
            Figure(
                "Held-out German chapters against all FLOPs spent on the way.",
                "model FLOPs",
                "nats a hidden token",
                lines,
            )
        ],
        settings=[
            ("model", f"BERT, {size.layers} layers, width {size.width}, {2 * size.vocabulary:,} joint word pieces"),
            ("source", f"the same in English, {size.source_steps} steps; its cost is not counted, it is there already"),
            ("TreLM", f"{size.commonality} steps of commonality, 2 x {size.transfer} of CdLM, {size.german} of German"),
            ("from fresh weights", f"{steps} steps of German"),
            lab.said_of_text("three English versions, one German"),
            (
                "tuning",
                f"each arm at the best of the learning rates {', '.join(f'{r:g}' for r in size.rates)} (seed 0)",
            ),
            ("seeds", f"{lab.seeds}; ± is the standard deviation, the band the range"),
        ],
        numbers=numbers,
    )
