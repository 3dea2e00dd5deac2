"""FLOPs, hours and disk of a stage, and the cheapest choice that fits."""

from collections.abc import Sequence
from dataclasses import dataclass

from clpds.accelerators import Accelerator
from clpds.planning.memory import Memory, memory, predictions
from clpds.planning.size import Size
from clpds.planning.zero import Zero
from clpds.recipe import Train
from clpds.training import BYTES_PER_PARAMETER

FITS = 0.95  # of the device's memory: fragments and what else runs there take the rest
# Share of the stated MFU that is left when states travel to the host or to disks at every step. Assumed, not
# measured: it depends on the bus, the disk and the micro batch.
SHARE = {"none": 1.0, "cpu": 0.5, "nvme": 0.25}
BYTES_FROZEN = 4  # a parameter that does not train, in a checkpoint: its weight in float32 at most
UNIVERSAL = 24  # bytes a parameter beside the checkpoint while it is brought to another number of ranks


@dataclass(frozen=True)
class Device:
    """What a rank runs on."""

    name: str
    memory: int
    """Bytes; of the whole machine for a CPU."""
    peak: float | None
    """Dense bf16 FLOP/s; None for a CPU."""
    per_node: int | None
    """Ranks of one machine."""

    @property
    def is_cpu(self) -> bool:
        return self.peak is None

    def room(self, ranks: int) -> float:
        """Bytes for one of ``ranks`` ranks; those of one machine share a CPU's memory."""
        return FITS * self.memory / (min(ranks, self.per_node or ranks) if self.is_cpu else 1)

    @classmethod
    def gpu(cls, known: Accelerator, per_node: int | None) -> "Device":
        return cls(known.name, known.memory, known.peak, per_node)


@dataclass(frozen=True)
class Work:
    """A stage as numbers."""

    size: Size
    stage: Train
    length: int

    @property
    def tokens(self) -> int:
        """In all blocks of the budget, padding included."""
        return self.stage.steps * self.stage.global_batch * self.length

    @property
    def predictions(self) -> float:
        """In these blocks, if all are full."""
        return self.stage.steps * self.stage.global_batch * predictions(self.stage, self.length)

    @property
    def flops(self) -> float:
        """As the trainer will reckon them, ``model_flops`` of all steps."""
        return self.size.flops(self.stage.trainable, self.length).of(self.tokens, self.predictions)

    @property
    def checkpoint(self) -> int:
        """Bytes of one, of all ranks. Of frozen parameters it holds the weights alone."""
        trained = sum(self.size.elements(self.size.trained(self.stage.trainable)))
        return BYTES_PER_PARAMETER * trained + BYTES_FROZEN * (self.size.parameters - trained)

    @property
    def checkpoints(self) -> int:
        """Bytes of disk: those kept, and the one being written."""
        return self.checkpoint * (self.stage.saving.keep_last + 1)

    @property
    def converted(self) -> int:
        """Bytes of the Hugging Face folder."""
        return self.size.parameters * (2 if self.size.dtype in ("bfloat16", "float16") else 4)


@dataclass(frozen=True)
class Option:
    """One DeepSpeed JSON on one number of ranks."""

    zero: Zero
    ranks: int
    memory: Memory
    fits: bool
    hours: float | None
    """None where no speed is known: on a CPU without tokens a second, in float32 on a GPU."""


def options(
    work: Work, configs: Sequence[Zero], device: Device, *, mfu: float, tokens_per_second: float | None = None
) -> list[Option]:
    """Every config on every number of ranks that the global batch divides by, fewest ranks first."""
    return [
        option(work, zero, ranks, device, mfu=mfu, tokens_per_second=tokens_per_second)
        for ranks in world_sizes(work.stage, device.per_node)
        for zero in configs
    ]


def option(
    work: Work, zero: Zero, ranks: int, device: Device, *, mfu: float, tokens_per_second: float | None = None
) -> Option:
    """``tokens_per_second`` is the speed of one rank, and takes the place of ``mfu``."""
    need = memory(
        work.size, zero, work.stage,
        length=work.length, ranks=ranks, micro_batch=work.stage.micro_batch, on_cpu=device.is_cpu,
    )  # fmt: skip
    seconds = None
    if tokens_per_second is not None:
        seconds = work.tokens / (tokens_per_second * ranks)
    elif device.peak is not None and zero.width == 2:
        seconds = work.flops / (device.peak * mfu * SHARE[zero.offload] * ranks)
    return Option(zero, ranks, need, need.total <= device.room(ranks), None if seconds is None else seconds / 3600)


def world_sizes(stage: Train, per_node: int | None) -> list[int]:
    """1, 2, 4, ... as far as the global batch divides by them; beyond one node whole nodes only."""
    most = stage.global_batch // stage.micro_batch
    powers = [2**n for n in range(most.bit_length())]
    within = [n for n in powers if n <= (per_node or most)]
    beyond = [per_node * n for n in powers] if per_node else []
    return sorted({n for n in within + beyond if stage.global_batch % (stage.micro_batch * n) == 0})


def cheapest(found: Sequence[Option]) -> Option | None:
    """Of those that fit: fewest GPU hours, then fewest GPUs, then the least sliced, which sends least."""

    def cost(one: Option) -> tuple[float, int, int]:
        hours = float("inf") if one.hours is None else one.hours * one.ranks
        return hours, one.ranks, one.zero.stage

    fitting = [one for one in found if one.fits]
    timed = [one for one in fitting if one.hours is not None]
    return min(timed or fitting, key=cost, default=None)


def largest_micro_batch(work: Work, chosen: Option, device: Device) -> int:
    """Blocks a rank can put through the model at once there, among the divisors of its share."""
    share = work.stage.global_batch // chosen.ranks
    fitting = [
        blocks
        for blocks in range(1, share + 1)
        if share % blocks == 0
        and memory(
            work.size, chosen.zero, work.stage,
            length=work.length, ranks=chosen.ranks, micro_batch=blocks, on_cpu=device.is_cpu,
        ).total <= device.room(chosen.ranks)
    ]  # fmt: skip
    return max(fitting, default=work.stage.micro_batch)
