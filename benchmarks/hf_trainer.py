"""The steps of ``benchmarks.steppers`` by Hugging Face's Trainer."""

import json
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from clpds.recipe import Train
from clpds.resources import find
from clpds.training.setup import open_inputs


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
