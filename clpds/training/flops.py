"""Model FLOPs, and the share of the hardware's peak that they make."""

from transformers import PretrainedConfig

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


def peak_flops(device_name: str) -> float | None:
    """FLOP/s of one device, or None where it is not known."""
    known = [name for name in PEAK if name in device_name]
    return PEAK[max(known, key=len)] if known else None


def flops_per_token(config: PretrainedConfig, parameters: int, sequence_length: int) -> float:
    """Forward and backward: 6 N + 12 L h s (Chowdhery et al. 2022, appendix B).

    N leaves out the input embedding unless it is the output matrix too; recomputed activations do
    not count, so that the share of peak measures progress.
    """
    text = config.get_text_config()
    lookup = 0 if text.tie_word_embeddings else text.vocab_size * text.hidden_size
    return 6 * (parameters - lookup) + 12 * text.num_hidden_layers * text.hidden_size * sequence_length
