"""One way to train, on a rank of a group: ``python -m benchmarks.steppers WAY RECIPE OUT.json`` under a launcher.

All three do the same steps on the same blocks in the same order. Rank 0 writes when each step began, and the losses.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from clpds.data.blocks import IGNORED
from clpds.recipe import Train, load_stage
from clpds.resources import find
from clpds.run_folder import read_metrics
from clpds.training.engine import build_engine, build_model, deepspeed_config
from clpds.training.group import process_group, total
from clpds.training.loop import Loop, rank_indices, train
from clpds.training.setup import open_inputs, open_model
from clpds.training.stopping import stop_flag


def ours(stage: Train, device: torch.device, begun: list[float]) -> list[float]:
    """`clpds train`, as it is."""
    step = Loop.step

    def noted(*arguments: Any, **named: Any) -> Any:
        begun.append(time.perf_counter())
        return step(*arguments, **named)

    with stop_flag() as flag, patch.object(Loop, "step", noted):
        train(stage, device, flag)
    return [line["loss"] for line in read_metrics(stage.out)]


def bare(stage: Train, device: torch.device, begun: list[float]) -> list[float]:
    """DeepSpeed's three calls on batches that lie ready: nothing read, logged or checked."""
    inputs, config = open_inputs(stage), deepspeed_config(stage, dist.get_world_size())
    batches = [[inputs.mixture.batch(micro) for micro in rank_indices(stage, step)] for step in range(stage.steps)]
    counts = [sum(int((batch.labels[:, 1:] != IGNORED).sum()) for batch in micros) for micros in batches]
    scales = [tokens / dist.get_world_size() / len(batches[0]) for tokens in total([*map(float, counts)], device)]
    engine = build_engine(build_model(open_model(stage, inputs), config, device), stage, config, device)
    losses = []
    for micros, scale in zip(batches, scales, strict=True):
        begun.append(time.perf_counter())
        for batch in micros:
            words = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "labels": batch.labels}
            # The model divides its sum by the number given: the global batch's tokens, as DeepSpeed takes means.
            loss = engine(**words, use_cache=False, num_items_in_batch=scale).loss
            engine.backward(loss)
            engine.step()
            losses.append(loss.detach())
    sums = torch.stack(losses).view(stage.steps, -1).sum(1)
    return [value / dist.get_world_size() / len(batches[0]) for value in total(sums.tolist(), device)]


class _InOrder(Trainer):
    """A Trainer that takes the samples as they come."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class _Clock(TrainerCallback):
    """Notes when a step begins."""

    def __init__(self, begun: list[float]) -> None:
        self.begun = begun

    def on_step_begin(self, *arguments: Any, **named: Any) -> None:
        """Of an optimizer step."""
        self.begun.append(time.perf_counter())


def trainer(stage: Train, device: torch.device, begun: list[float]) -> list[float]:
    """Hugging Face's Trainer with the same DeepSpeed JSON, on samples that lie ready in memory."""
    mixture = open_inputs(stage).mixture
    keys = ("input_ids", "position_ids", "labels")
    samples = [
        {key: getattr(mixture.batch([number]), key)[0] for key in keys}
        for number in range(stage.steps * stage.global_batch)
    ]
    taken_over = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    file = json.loads(find("ds_configs", stage.deepspeed).read_text(encoding="utf-8"))
    arguments = TrainingArguments(
        output_dir=str(stage.out),
        per_device_train_batch_size=stage.micro_batch,
        gradient_accumulation_steps=stage.global_batch // stage.micro_batch // dist.get_world_size(),
        max_steps=stage.steps,
        learning_rate=stage.optimizer.lr,
        lr_scheduler_type="constant",
        adam_beta1=stage.optimizer.betas[0],
        adam_beta2=stage.optimizer.betas[1],
        weight_decay=stage.optimizer.weight_decay,
        max_grad_norm=stage.optimizer.clip,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        deepspeed=file | dict.fromkeys((*taken_over, "gradient_clipping"), "auto"),
    )
    model = AutoModelForCausalLM.from_pretrained(stage.model, dtype=torch.float32)
    runner = _InOrder(model=model, args=arguments, train_dataset=samples, callbacks=[_Clock(begun)])
    runner.train()
    return [line["loss"] for line in runner.state.log_history if "loss" in line]


def main(way: str, recipe: Path, out: Path) -> None:
    """Train, then write what rank 0 saw."""
    stage = load_stage(recipe, (), None)[1]
    begun: list[float] = []
    with process_group() as device:
        losses = {"ours": ours, "bare": bare, "trainer": trainer}[way](stage, device, begun)
        if dist.get_rank() == 0:
            out.write_text(json.dumps({"begun": begun, "losses": losses}))
        dist.barrier()


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
