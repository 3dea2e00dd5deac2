"""What is known of accelerators: peak and memory. Imports nothing heavy: training and planning both read it."""

import re
from dataclasses import dataclass

from clpds.errors import UserError

# Dense peak with bf16 inputs, FLOP/s, from the makers' data sheets (without sparsity, whose figures
# are twice as high; an MI250X is two devices of half the card's peak each). Longest match wins.
PEAK = {
    "V100": 125e12,  # fp16; it has no bf16
    "A100": 312e12,
    "A40": 149.7e12,
    "L40S": 362e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "MI250X": 191.5e12,
    "MI300X": 1307e12,
}

# GiB of one device as its driver reports them, the least seen in out-of-memory messages ("total capacity of"):
# error correction and the driver take their share of the number on the box. A V100 is left out: it has no bf16.
_MEMORY = {
    "A40": ("A40", 44.3),
    "A100-40GB": ("A100", 39.3),
    "A100-80GB": ("A100", 79.1),
    "L40S": ("L40S", 44.3),
    "H100": ("H100", 79.1),
    "H100-PCIe": ("H100 PCIe", 79.1),
    "H200": ("H200", 139.7),
    "GH200": ("GH200", 94.5),
    "B200": ("B200", 178.3),
    "MI250X": ("MI250X", 63.9),
    "MI300X": ("MI300X", 191.6),
}


@dataclass(frozen=True)
class Accelerator:
    """One device that a rank can have."""

    name: str
    memory: int
    """Bytes, as the driver reports them."""
    peak: float
    """Dense bf16 FLOP/s."""


ACCELERATORS = {name: Accelerator(name, int(gib * 2**30), PEAK[chip]) for name, (chip, gib) in _MEMORY.items()}


def accelerator(name: str) -> Accelerator:
    """The accelerator of that name, upper or lower case; UserError that lists the known ones."""
    known = {key.lower(): value for key, value in ACCELERATORS.items()}
    if name.lower() in known:
        return known[name.lower()]
    raise UserError(f"gpu '{name}' is not known; known: {', '.join(ACCELERATORS)}, cpu")


def peak_flops(device_name: str) -> float | None:
    """FLOP/s of the device that calls itself ``device_name`` (NVIDIA A100-SXM4-80GB), or None where it is not known."""
    known = [name for name in PEAK if re.search(rf"\b{name}\b", device_name)]
    return PEAK[max(known, key=len)] if known else None
