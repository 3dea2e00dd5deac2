"""The ZeRO-3 loop: one stage, (objective, trainable parameters, data, budget), on all ranks."""

BYTES_PER_PARAMETER = 14  # of a training checkpoint: float32 master, two moments, bf16 weights
