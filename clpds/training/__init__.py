"""The ZeRO-3 loop: one stage, (objective, trainable parameters, data, budget), on all ranks."""
