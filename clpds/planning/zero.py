"""What of a DeepSpeed JSON decides memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clpds.bounds import SETTINGS
from clpds.errors import UserError
from clpds.inside import read_json
from clpds.refusals import require_given

Device = Literal["none", "cpu", "nvme"]
_BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}


@dataclass(frozen=True)
class Zero:
    """One file of ds_configs/, or a user's own. Sizes in elements, widths in bytes an element."""

    name: str
    stage: int
    width: int
    """Of parameters and activations."""
    sums: int
    """Of accumulated gradients."""
    wire: int
    """Of gradients on their way between ranks."""
    parameters: Literal["none", "cpu"]
    """Where parameters rest between uses."""
    optimizer: Device
    """Where masters, moments and accumulated gradients rest."""
    buffers: int
    """Buffers a rank swaps optimizer states of a sub-group through (NVMe)."""
    reduce_bucket: int
    gather_bucket: int
    prefetch: int
    persistent: int
    reuse: int
    """Parameters read between two uses of one that is not released in between."""
    within: int
    """Ranks that hold all parameters a second time among themselves (``zero_hpz_partition_size``); 1: none."""
    sub_group: int
    overlap: bool

    @property
    def offload(self) -> Device:
        """The slowest device in use."""
        order: tuple[Device, ...] = ("none", "cpu", "nvme")
        return max(self.parameters, self.optimizer, key=order.index)


def read_zero(file: Path) -> Zero:
    """Defaults are those of deepspeed/runtime/zero/config.py 0.19.8; UserError for what is no ZeRO configuration."""
    try:
        document = read_json(file, SETTINGS)
    except (OSError, ValueError, RecursionError) as error:
        require_given(file, error)
        raise UserError(f"{file} is not valid JSON: {' '.join(str(error).split())}") from error
    zero = document.get("zero_optimization") if isinstance(document, dict) else None
    stage = zero.get("stage") if isinstance(zero, dict) else zero
    if not isinstance(zero, dict) or type(stage) is not int or stage not in (1, 2, 3):
        raise UserError(f"{file}: zero_optimization.stage is {stage!r:.80}; give 1, 2 or 3")

    def section(where: dict[str, Any], key: str) -> dict[str, Any]:
        found = where.get(key)
        if not isinstance(found, dict | None):
            raise UserError(f"{file}: {key} is {found!r:.80}; give a JSON object")
        return found or {}

    half = any(section(document, kind).get("enabled") is True for kind in ("bf16", "fp16"))
    width = 2 if half else 4

    def number(key: str, default: float, least: int = 0, where: dict[str, Any] = zero) -> int:
        value = where.get(key, default)
        try:
            found = int(float(value))
            if isinstance(value, bool) or found < least:
                raise ValueError
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{file}: zero_optimization.{key} is {value!r:.80}; give a number, {least} or more"
            ) from error
        return found

    def type_width(value: Any) -> int:
        if value is None:
            return width
        if not isinstance(value, str) or value not in _BYTES:
            raise UserError(f"{file}: {value!r:.80} is no data type that plan knows; known: {', '.join(_BYTES)}")
        return _BYTES[value]

    resting = section(zero, "offload_param").get("device", "none")
    if resting == "nvme":
        raise UserError(f"{file}: parameters cannot be offloaded to NVMe; give offload_param cpu, or remove it")
    moved = section(zero, "offload_optimizer")
    for device in (resting, moved.get("device", "none")):
        if device not in ("none", "cpu", "nvme"):
            raise UserError(f"{file}: {device!r:.80} is no device to offload to; give none, cpu or nvme")
    return Zero(
        name=file.name,
        stage=stage,
        width=width,
        sums=type_width(section(document, "data_types").get("grad_accum_dtype")),
        wire=type_width(document.get("communication_data_type")),
        parameters=resting,
        optimizer=moved.get("device", "none"),
        buffers=number("buffer_count", 4, 1, moved),
        reduce_bucket=number("reduce_bucket_size", 5e8),
        gather_bucket=number("allgather_bucket_size", 5e8),
        prefetch=number("stage3_prefetch_bucket_size", 5e7),
        persistent=number("stage3_param_persistence_threshold", 1e5),
        reuse=number("stage3_max_reuse_distance", 1e9),
        within=number("zero_hpz_partition_size", 1, 1),
        sub_group=number("sub_group_size", 1e9, 1),
        overlap=bool(zero.get("overlap_comm", stage == 3)),
    )
