"""The ZeRO-3 loop: one stage, (objective, trainable parameters, data, budget), on all ranks."""

BYTES_PER_PARAMETER = 16  # of a training checkpoint at most: float32 master, two moments, float32 weights
