"""The training loop, top to bottom. Every rank runs it."""

import math
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from clpds.accelerators import peak_flops
from clpds.allocator import keep_freed_memory
from clpds.checkpoint import Checkpoint
from clpds.data.blocks import on_device
from clpds.errors import UserError
from clpds.folders.ours import require_run_folder
from clpds.models.unreached import freeze_unreached
from clpds.objectives import Objective, objective_of
from clpds.recipe import Train
from clpds.run_folder import asked_to_stop, read_trainer
from clpds.training import resuming
from clpds.training.divergence import write_bad_batches
from clpds.training.engine import build_engine, build_model, deepspeed_config, forget_forward_passes, freeze
from clpds.training.extensions import build_extensions
from clpds.training.flops import step_flops
from clpds.training.group import agree, first_rank, on_first_rank, total
from clpds.training.kernels import choose_attention, take_kernels
from clpds.training.metrics import Metrics, memory_peak
from clpds.training.saving import Position, Saver
from clpds.training.schedule import learning_rate
from clpds.training.setup import Inputs, identity, open_inputs, open_model, prepare_run, with_weights
from clpds.training.stopping import StopFlag
from clpds.training.validation import validate
from launcher.owner import join, take

BAD_IN_A_ROW = 10  # steps with a non-finite loss or gradient before the run gives up


def train(stage: Train, device: torch.device, flag: StopFlag) -> Position:
    """Run ``stage`` on all ranks from its newest checkpoint to its last step, or until asked to stop.

    Returns the position reached, whose checkpoint is written. Raises UserError on all ranks together.
    """
    inputs = agree(lambda: open_inputs(stage))
    objective = agree(lambda: objective_of(stage, inputs.mixture.corpora[0]))
    config = agree(lambda: deepspeed_config(stage, dist.get_world_size()))
    on_first_rank(lambda: require_run_folder(stage.out))
    checkpoint = open_model(stage, inputs)
    taken = agree(lambda: take(stage.out) if first_rank() else None)
    with agree(lambda: taken or join(stage.out)):  # the run is this training's until the file is closed
        return _train(stage, device, flag, inputs, objective, config, checkpoint)


def _train(
    stage: Train,
    device: torch.device,
    flag: StopFlag,
    inputs: Inputs,
    objective: Objective[Any],
    config: dict[str, Any],
    checkpoint: Checkpoint,
) -> Position:
    agree(lambda: choose_attention(checkpoint.config, stage.attention))
    liger = agree(lambda: take_kernels(checkpoint.config.model_type, stage.kernels, device))
    same = on_first_rank(lambda: identity(stage, inputs, checkpoint, config))
    resume = on_first_rank(lambda: resuming.find_checkpoint(stage.out, same))
    checkpoint = with_weights(stage, inputs, checkpoint)
    prepare_run(stage, checkpoint)
    done = read_trainer(resume) if resume else {"step": 0, "world_size": dist.get_world_size()}
    if done["step"] >= stage.steps:
        return Position(done["step"], done["tokens"])
    if resume:
        resuming.require_sound(resume)
    if resume and done["world_size"] != dist.get_world_size():
        resume = resuming.universal(resume)
        config["checkpoint"] = {"load_universal": True}

    build_extensions(stage.out, config)
    model = build_model(checkpoint, config, device)
    agree(lambda: freeze(model, stage.trainable))
    unreached = agree(lambda: freeze_unreached(model))
    flops = step_flops(model, inputs.mixture.sequence_length)
    engine = build_engine(model, stage, config, device)
    objective.check(engine)
    if device.type == "cpu":
        keep_freed_memory()
    position = resuming.load(engine, resume) if resume else Position()

    loop = Loop(stage, objective, inputs, engine, device)
    metrics = agree(lambda: Metrics(stage.out, start=position.step, steps=stage.steps) if first_rank() else None)

    def sync() -> None:
        if metrics:
            metrics.sync()

    if metrics and liger:
        metrics.say("norms, rotary embeddings and MLPs by liger-kernel")
    if metrics and unreached:
        metrics.say(
            f"no loss reaches {len(unreached):,} tensors, which stay as they are: {', '.join(unreached[:3])} ..."
        )
    if metrics and position.step:
        metrics.say(f"resuming from step {position.step}")
    tokens = stage.global_batch * inputs.mixture.sequence_length  # of a step, predicted or not

    def score() -> None:
        scores = validate(engine, objective, inputs.validation, stage, device)
        if metrics and scores:
            metrics.log(position.step, tokens=position.tokens, validation=scores)

    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    with closing(metrics) if metrics else nullcontext(), Saver(engine, stage, same) as saver:
        if position.step == 0 and stage.validation.every is not None:
            score()
        forget_forward_passes(engine)
        saved = position.step
        while position.step < stage.steps:
            stop = flag.number != 0 or (metrics is not None and metrics.refused is not None)
            step = loop.step(position, stop=stop, written=saver.written())
            if step.written:
                saver.finish()
            if metrics and position.step % stage.log_every == 0:
                cost = flops.of(tokens, tokens if objective.every_token else step.tokens)
                achieved = cost / step.seconds / dist.get_world_size()
                metrics.log(
                    position.step,
                    loss=step.loss,
                    lr=step.lr,
                    grad_norm=step.grad_norm,
                    tokens=position.tokens,
                    tokens_per_second=tokens / step.seconds,
                    model_flops=cost,
                    model_flops_per_second_and_rank=achieved,
                    mfu=achieved / peak if peak else None,
                    memory_bytes=memory_peak(device),
                    skipped_steps=engine.skipped_steps,
                )
            if _due(position.step, stage.validation.every, stage.steps):
                score()
            due = step.stop or _due(position.step, stage.saving.every, stage.steps)
            if due:
                on_first_rank(sync)
            sound = loop.bad_in_a_row == 0  # else the weights may be spoilt: older checkpoints are worth more
            if due and sound:
                saver.save(position)
                saved = position.step
            if step.stop and position.step < stage.steps:
                return position
        if loop.bad_in_a_row:
            raise UserError(f"the loss or gradient of the last step of {stage.out} was not finite; lower optimizer.lr")
        if saved != position.step:
            on_first_rank(sync)
            saver.save(position)
        return position


def _due(step: int, every: int | None, last: int) -> bool:
    return every is not None and (step % every == 0 or step == last)


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, the same on all ranks but for ``seconds``."""

    loss: float | None
    """Mean negative log likelihood in nats over the global batch's predicted tokens; None: not finite."""
    lr: float
    grad_norm: float | None
    """Norm before clipping; None: not finite, and the step was skipped."""
    tokens: int
    seconds: float
    stop: bool
    """Whether any rank was asked to stop."""
    written: bool
    """Whether all ranks have written the checkpoint that was begun."""


class Loop:
    """What an optimizer step needs and does not change."""

    def __init__(
        self, stage: Train, objective: Objective[Any], inputs: Inputs, engine: Any, device: torch.device
    ) -> None:
        self.stage, self.objective, self.inputs = stage, objective, inputs
        self.engine, self.device = engine, device
        self.bad_in_a_row = 0

    def step(self, position: Position, *, stop: bool, written: bool) -> StepResult:
        """Do the global batch number ``position.step`` and advance ``position``; the rest is this rank's to say."""
        start = time.perf_counter()
        stage, engine = self.stage, self.engine
        batches = [self._batch(indices) for indices in rank_indices(stage, position.step)]
        counted = sum(self.objective.count(batch) for batch in batches)
        (tokens,) = total([counted], self.device)
        lr = learning_rate(stage, position.step)
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        skipped = engine.skipped_steps
        nll = torch.zeros((), dtype=torch.float64, device=self.device)
        for micro, batch in enumerate(batches):
            _seed_dropout(stage.seed, position.step, micro)
            loss = self.objective.loss_sum(engine, batch)
            nll += loss.detach()
            # DeepSpeed divides by the number of ranks and of micro batches; we want the mean over tokens.
            scale = dist.get_world_size() * len(batches) / tokens
            # A loss that is not finite makes the gradient NaN, and DeepSpeed skips the step, on all ranks.
            engine.backward(loss * (scale + 0 * loss.detach()))
            engine.step()
        asked = stop or (first_rank() and asked_to_stop(stage.out))
        nll_all, wishes, writers = total([nll.item(), float(asked), float(written)], self.device)
        position.step += 1
        position.tokens += int(tokens)
        mean, norm = _finite(nll_all / tokens), _finite(float(engine.get_global_grad_norm()))
        self._count_bad(mean is None or norm is None or engine.skipped_steps > skipped, position.step)
        seconds = time.perf_counter() - start
        return StepResult(mean, lr, norm, int(tokens), seconds, wishes > 0, writers == dist.get_world_size())

    def _batch(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        batch = self.inputs.mixture.batch(indices, isolate=self.stage.isolate_documents)
        return on_device(self.objective.prepare(batch, indices, self.stage.seed), self.device)

    def _count_bad(self, bad: bool, step: int) -> None:
        self.bad_in_a_row = self.bad_in_a_row + 1 if bad else 0
        if self.bad_in_a_row >= BAD_IN_A_ROW:
            steps = range(step - BAD_IN_A_ROW + 1, step + 1)
            file = on_first_rank(lambda: write_bad_batches(self.stage, self.inputs.mixture, steps))
            raise UserError(
                f"step {step}: loss or gradient not finite {BAD_IN_A_ROW} times in a row, with the blocks that {file} "
                f"lists; lower optimizer.lr and start it again, or leave them out in a new run"
            )


def rank_indices(stage: Train, step: int) -> list[range]:
    """This rank's sample numbers of a global batch, a range for each micro batch.

    Over all ranks they are [step G, (step + 1) G), G = global_batch, whatever the number of ranks.
    """
    ranks, rank = dist.get_world_size(), dist.get_rank()
    first = step * stage.global_batch + rank * stage.micro_batch
    micro_batches = stage.global_batch // (stage.micro_batch * ranks)
    starts = [first + micro * stage.micro_batch * ranks for micro in range(micro_batches)]
    return [range(start, start + stage.micro_batch) for start in starts]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _seed_dropout(seed: int, step: int, micro: int) -> None:
    """Dropout as a function of the place in the run: nothing to save, and a resumed run draws the same."""
    torch.manual_seed(hash((seed, step, micro, dist.get_rank())) % 2**63)
