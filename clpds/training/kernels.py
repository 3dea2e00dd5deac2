"""What computes a model's attention and layers: transformers' own code, or kernels that are faster on a GPU."""

from importlib.util import find_spec
from inspect import signature
from typing import Literal

import torch
from transformers import PretrainedConfig

from clpds.checkpoint.anatomy import meta_model
from clpds.errors import UserError


def choose_attention(config: PretrainedConfig, attention: str) -> None:
    """Write the implementation into the config; `auto` leaves it to transformers.

    Raises UserError where the model's class has none of that name or a package for it is missing.
    """
    if attention == "auto":
        return
    config._attn_implementation = attention
    try:
        meta_model(config)
    except (ImportError, ValueError) as error:
        raise UserError(f"attention: {attention}: {str(error).splitlines()[0]}") from error


def take_kernels(model_type: str, kernels: Literal["auto", "torch", "liger"], device: torch.device) -> bool:
    """Whether liger-kernel's norms, rotary embeddings and gated MLPs now stand in the family's classes, process-wide.

    `auto` takes them where they are to be had. With its loss, which alone costs 3 points, they bring a Llama of 1.3B
    from 46 to 52 % of an H200's matrix peak (docs/performance.md).
    Raises UserError where `liger` is asked for and not to be had.
    """
    if kernels == "torch":
        return False
    if missing := _missing(model_type, device):
        if kernels == "liger":
            raise UserError(f"kernels: liger: {missing}; give auto or torch")
        return False
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    take = MODEL_TYPE_TO_APPLY_LIGER_FN[model_type]
    ours = ("cross_entropy", "fused_linear_cross_entropy")  # the loss counts the tokens of all ranks
    take(**{name: False for name in ours if name in signature(take).parameters})
    return True


def _missing(model_type: str, device: torch.device) -> str:
    if device.type != "cuda":
        return "it needs a CUDA device"
    if not find_spec("liger_kernel"):
        return "liger-kernel is not installed (pip install liger-kernel)"
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    return "" if model_type in MODEL_TYPE_TO_APPLY_LIGER_FN else f"it has nothing for models of type {model_type}"
