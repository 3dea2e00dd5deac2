"""Small stages on real text, and what a rank does with one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from clpds.data.prepare import prepare
from clpds.errors import UserError
from clpds.recipe import Corpus, Data, Optimizer, Schedule, Train
from clpds.training.group import process_group
from clpds.training.loop import train
from clpds.training.stopping import stop_flag
from clpds.vocabulary.roles import special_ids
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer

FP32_ZERO3 = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, "sub_group_size": 20_000}}


def write_inputs(
    folder: Path, *, shape: str = "llama", family: str = "byte_bpe", length: int = 64, **changes: Any
) -> dict[str, Path]:
    """A tiny model, a data set and a DeepSpeed config under ``folder``."""
    tokenizer = tiny_tokenizer(family)
    ids = special_ids(tokenizer)
    model = save_model(folder / "model", tiny_model(shape, len(tokenizer), **(ids | changes)), tokenizer)
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": part[:400]}) for part in text("de", 60)))
    data = Data(
        input=(folder / "text.jsonl",),
        tokenizer=model,
        sequence_length=length,
        out=folder / "data",
        validation_fraction=0.2,
        workers=1,
    )
    prepare(data)
    (folder / "zero3.json").write_text(json.dumps(FP32_ZERO3))
    return {"model": model, "data": data.out, "deepspeed": folder / "zero3.json"}


def stage(inputs: dict[str, Path], out: Path, **changes: Any) -> Train:
    """A stage of 8 steps with decay, clipping and a schedule that all matter."""
    base = Train(
        model=inputs["model"],
        data={"german": Corpus(path=inputs["data"])},
        out=out,
        steps=8,
        micro_batch=2,
        global_batch=8,
        deepspeed=inputs["deepspeed"],
        optimizer=Optimizer(lr=2e-3, weight_decay=0.1, clip=0.5),
        schedule=Schedule(kind="cosine", warmup_steps=2),
        seed=3,
    )
    return replace(base, **changes)


def run_stage(task: Train) -> list[dict[str, Any]]:
    """What one rank does; returns the lines of metrics."""
    with stop_flag() as flag, process_group() as device:
        train(task, device, flag)
    return read_metrics(task.out)


def refused(task: Train) -> str:
    """The message with which a rank stops."""
    return refused_each([task])[0]


def refused_each(tasks: list[Train]) -> list[str]:
    """The messages of several stages, begun one after the other; empty for one that ends well."""
    messages = []
    with stop_flag() as flag, process_group() as device:
        for task in tasks:
            try:
                train(task, device, flag)
                messages.append("")
            except UserError as error:
                messages.append(str(error))
    return messages


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that carry a training loss."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def curve(lines: list[dict[str, Any]], key: str = "loss") -> list[float]:
    return [line[key] for line in lines]
