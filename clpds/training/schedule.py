"""The learning rate as a pure function of the step, so that there is no state to resume."""

import math

from clpds.recipe import Train


def learning_rate(stage: Train, step: int) -> float:
    """The rate of the optimizer step number ``step`` (from 0) of ``stage.steps``.

    Warm-up is linear and reaches the full rate at step ``warmup_steps``; its first step is not zero.
    """
    schedule, top = stage.schedule, stage.optimizer.lr
    if step < schedule.warmup_steps:
        return top * (step + 1) / (schedule.warmup_steps + 1)
    start = stage.steps - schedule.decay_steps if schedule.kind == "wsd" else schedule.warmup_steps
    if step < start:
        return top
    progress = min(1.0, (step - start) / max(1, stage.steps - 1 - start))
    remaining = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1 - progress
    return top * (schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * remaining)
