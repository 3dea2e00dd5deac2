"""What is noticed when a training goes wrong: a loss that jumps, batches whose loss or gradient is not finite."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from clpds.data.order import Mixture
from clpds.output import write_text
from clpds.recipe import Train

BAD_BATCHES = "bad_batches.json"
WINDOW = 64  # logged losses that one is compared with
FEWEST = 16  # below which nothing is said
DEVIATIONS = 6  # above the median, in standard deviations as a normal distribution has them


def spikes(losses: Sequence[float]) -> bool:
    """Whether the last of these losses, in nats and in the order logged, stands out, and the one before it did not.

    Median and median absolute deviation of up to 64 losses before say what is usual: neither is moved by a spike.
    """
    return _stands_out(losses) and not _stands_out(losses[:-1])


def _stands_out(losses: Sequence[float]) -> bool:
    before = losses[-WINDOW - 1 : -1]
    if len(before) < FEWEST:
        return False
    middle = median(before)
    deviation = 1.4826 * median(abs(loss - middle) for loss in before)
    return losses[-1] > middle + DEVIATIONS * max(deviation, 0.01 * middle)


def write_bad_batches(stage: Train, mixture: Mixture[Any], steps: Iterable[int]) -> Path:
    """Which samples, and which rows of which corpus, these steps (from 1) have seen; the file, in the run's folder."""
    names, found = list(stage.data), []
    for step in steps:
        first, last = (step - 1) * stage.global_batch, step * stage.global_batch
        blocks: dict[str, list[int]] = {}
        for corpus, block in map(mixture.locate, range(first, last)):
            blocks.setdefault(names[corpus], []).append(block)
        found.append({"step": step, "samples": [first, last], "blocks": blocks})
    write_text(stage.out / BAD_BATCHES, json.dumps(found, indent=2) + "\n")
    return stage.out / BAD_BATCHES
