"""Model FLOPs: what a token costs, forward and backward."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def flops_per_token(config: "PretrainedConfig", parameters: int, sequence_length: int) -> float:
    """Forward and backward: 6 N + 12 L h s (Chowdhery et al. 2022, appendix B).

    N leaves out the input embedding unless it is the output matrix too; recomputed activations do
    not count, so that the share of peak measures progress.
    """
    text = config.get_text_config()
    lookup = 0 if text.tie_word_embeddings else text.vocab_size * text.hidden_size
    return model_flops(parameters - lookup, text.num_hidden_layers, text.hidden_size, sequence_length)


def model_flops(parameters: int, layers: int, hidden: int, sequence_length: int) -> float:
    """FLOPs a token from numbers alone; ``parameters`` are those that multiply."""
    return 6 * parameters + 12 * layers * hidden * sequence_length
