"""Bytes that a rank of ``clpds train`` holds at its peak, term by term.

Model states follow DeepSpeed 0.19.8 as it is written (runtime/zero/stage3.py, stage_1_and_2.py,
bf16_optimizer.py), activations the forward functions of transformers 5 with sdpa attention, logits
``objectives/causal.py``. DeepSpeed's own estimators stop at the model states: docs/planning.md
compares. B blocks of N tokens are a micro batch; P parameters, T of them trained; R ranks.
"""

from dataclasses import dataclass

from clpds.planning.size import Size
from clpds.planning.zero import Zero
from clpds.recipe import Train

CONTEXT_GPU = 2 * 10**9  # CUDA or HIP context, NCCL's buffers: 1 to 2 GB by report
CONTEXT_CPU = 55 * 10**7  # interpreter and libraries; docs/planning.md has the measurement
PINNED = 1.5  # pinned host memory is rounded up; the factor of DeepSpeed's estimators
FLAT_REDUCTION = 500_000_000  # elements up to which BF16_Optimizer's gradients are copied to be reduced (engine.py)


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    parameters: float
    gradients: float
    optimizer: float
    buffers: float
    """Communication buckets, there all the time."""
    gathered: float
    """ZeRO-3: whole parameters that are in use or prefetched."""
    activations: float
    logits: float
    """At the peak: the loss's float32 copies, or the gradient of the largest tensor on its way."""
    step: float
    """Copies of the optimizer step; activations, logits and gathered parameters are gone then."""
    context: float
    host: float = 0.0
    """Pinned host memory, for offload."""
    nvme: float = 0.0

    @property
    def total(self) -> float:
        """Resident terms, and the larger of what the backward pass and what the step need besides."""
        resident = self.parameters + self.gradients + self.optimizer + self.buffers + self.context
        return resident + max(self.gathered + self.activations + self.logits, self.step)


def memory(
    size: Size, zero: Zero, stage: Train, *, length: int, ranks: int, micro_batch: int, on_cpu: bool = False
) -> Memory:
    """Of one rank among ``ranks``, with blocks of ``length`` tokens."""
    trained = size.elements(size.trained(stage.trainable))
    P, T = size.parameters, sum(trained)
    classes = 1 if stage.objective == "classification" else size.vocabulary
    logits = micro_batch * predictions(stage, length) * classes
    at_loss = (8.0 + 4.0 * max(size.parts.outputs, 1)) * logits  # of a middle head the log-probabilities wait
    states = _stage3(size, zero, P, T, ranks) if zero.stage == 3 else _stage12(zero, P, T, ranks)
    offloaded = zero.optimizer != "none"
    sub_group = min(T / ranks, zero.sub_group) if zero.stage == 3 else T / ranks
    # The gradients are copied into one float32 tensor, and torch's AdamW on a CPU, which has no fused
    # form, makes two more of that size.
    states["step"] = 0.0 if offloaded else max(states["step"], (4.0 + 8.0 * on_cpu) * sub_group)
    return Memory(
        **states,
        activations=activations(size, stage, micro_batch, length, zero.width),
        logits=max(at_loss, zero.width * logits + _in_flight(max(trained), P, zero, ranks)),
        context=CONTEXT_CPU if on_cpu else CONTEXT_GPU,
    )


def _stage3(size: Size, zero: Zero, P: int, T: int, ranks: int) -> dict[str, float]:
    """Everything in slices; whole are the tensor in use, those prefetched, the small, persistent ones and the last.

    The last are those that the backward pass needs within stage3_max_reuse_distance: half of it lies before the turn.
    """
    kept = size.up_to(zero.persistent) + zero.prefetch + size.largest + zero.reuse / 2
    alone = ranks == 1 and zero.parameters == "none"  # nothing is gathered: slices are whole
    whole = 0.0 if alone else min(P, kept)
    on_host = zero.optimizer != "none"
    sums = zero.sums * T / ranks
    optimizer = 12.0 * T / ranks  # masters too in float32: they are compared by device, and that fails
    resting = zero.width * P * (1 / ranks + (1 / zero.within if zero.within > 1 else 0.0))
    host = PINNED * resting if zero.parameters == "cpu" else 0.0
    nvme = 0.0
    if zero.optimizer == "cpu":
        host += PINNED * (sums + optimizer + 4 * T / ranks)  # and the float32 gradient that the step reads
    elif zero.optimizer == "nvme":
        host += PINNED * (sums + zero.buffers * 4 * min(T / ranks, zero.sub_group))
        nvme = optimizer + 4 * T / ranks
    return {
        "parameters": resting if zero.parameters == "none" else 0.0,
        "gradients": 0.0 if on_host else sums,
        "optimizer": 0.0 if on_host else optimizer,
        "buffers": float(zero.wire * zero.reduce_bucket),
        "gathered": zero.width * whole,
        "step": 0.0,
        "host": host,
        "nvme": nvme,
    }


def _stage12(zero: Zero, P: int, T: int, ranks: int) -> dict[str, float]:
    """Whole parameters on every rank, optimizer states in slices, gradients in slices from stage 2."""
    optimizer = 12.0 * T / ranks
    gather = float(zero.width * min(zero.gather_bucket, T))
    states = {"parameters": float(zero.width * P), "gathered": 0.0, "host": 0.0, "nvme": 0.0, "step": 0.0}
    if zero.stage == 1 and (zero.width, zero.sums, zero.optimizer) == (2, 4, "none"):
        # BF16_Optimizer: whole bf16 gradients, added to whole float32 ones, reduced after the backward pass.
        copied = float(zero.sums * T if T <= FLAT_REDUCTION else 0)
        return states | {"gradients": 6.0 * T, "optimizer": optimizer, "buffers": 0.0, "step": max(gather, copied)}
    buckets = float(zero.wire * zero.reduce_bucket * (2 if zero.overlap else 1))
    if zero.optimizer != "none":
        host = PINNED * (optimizer + (zero.sums + zero.width) * T / ranks)
        return states | {"gradients": 0.0, "optimizer": 0.0, "buffers": buckets, "host": host}
    sums = zero.sums * (T if zero.stage == 1 else T / ranks)
    return states | {"gradients": float(sums), "optimizer": optimizer, "buffers": buckets, "step": gather}


def _in_flight(largest: int, P: int, zero: Zero, ranks: int) -> float:
    """The gradient of the largest tensor that trains between the backward pass and its slice.

    One that fits the bucket is copied into it, and the bucket once more to be scattered; a larger
    one travels alone, converted to the type of the wire and padded to the number of ranks.
    """
    if zero.stage < 3:
        return float(zero.width * largest)
    if largest <= zero.reduce_bucket:
        return float(zero.width * largest + zero.wire * min(zero.reduce_bucket, P))
    copies = (zero.wire != zero.width) + (largest % ranks != 0)
    return float((zero.width + zero.wire * copies) * largest)


def predictions(stage: Train, length: int) -> float:
    """Positions of a full block that go through the head."""
    if stage.objective == "causal":
        return length
    if stage.objective == "classification":
        return 1
    if stage.objective == "cdlm":  # every second sample is a translation, all of which is predicted
        return length * (1 + stage.mask_share) / 2
    return length * stage.mask_share


def activations(size: Size, stage: Train, micro_batch: int, length: int, width: int) -> float:
    """Bytes that autograd keeps between forward and backward pass, B x N tokens through the layers from the lowest
    that trains up.

    With recomputation the input of each layer and one layer's inside. Dropout's masks are left out.
    ``tests/planning/test_memory.py`` counts what real models keep.
    """
    tokens, layers = micro_batch * length, size.passed(stage.trainable)
    masked = stage.isolate_documents or stage.objective != "causal"
    inside = _layer(size, width, masked=masked) * tokens
    mask = width * micro_batch * length**2 if masked else 0
    once = stage.objective in ("masked", "minijoint")  # given as it is added; else each layer's sdpa makes such a mask
    inside += 0 if once else mask
    if size.kind == "bloom":  # it has no sdpa: the attention itself is kept, after its softmax and after dropout
        inside += (6 if width == 2 else 4) * micro_batch * size.heads * length**2
    last = _norm(size, width) * tokens + (mask if once else 0)
    if stage.activation_checkpointing:
        return layers * tokens * size.hidden * width + inside + last
    return layers * inside + last


def _norm(size: Size, width: int) -> float:
    """Bytes a token: an RMS norm keeps its float32 input, the normalised value (Gemma's in float32) and the
    output, a layer norm its input and output."""
    if size.norm == "layer":
        return size.hidden * 2 * width
    return size.hidden * (4 + (4 if size.kind.startswith("gemma") else width) + width)


def _layer(size: Size, width: int, *, masked: bool) -> float:
    """Bytes a token that one layer keeps.

    Attention: queries and output, keys and values (with a mask repeated for all heads), a float32 a
    head. Feed-forward: with a gate the gate before and after its function, the other half and the
    product; else before and after; transformers' Python form of gelu_new three more.
    """
    q, k, f = size.heads * size.head_size, size.groups * size.head_size, size.feed_forward
    attention = 2 * width * (q + (q if masked else k)) + 4 * size.heads
    if any(name.endswith("q_norm.weight") for name in size.shapes):
        attention += (4 + width) * (q + k)
    if size.kind == "gpt_neox":
        attention += 2 * width * q  # its rotary embedding copies what the joint projection keeps too
    kept = 4 if size.gated else {"relu": 1, "gelu_new": 5, "gelu_fast": 5}.get(size.activation, 2)
    return 2 * _norm(size, width) + attention + kept * f * width
