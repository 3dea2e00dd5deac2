"""What type each tensor has in a model that transformers opens in bfloat16 or float16: not always that one."""

import copy

import torch
from transformers.core_model_loading import build_glob_alternation

from clpds.checkpoint.anatomy import Anatomy


def dtypes(wanted: Anatomy, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The type of each floating tensor after ``from_pretrained(..., dtype=dtype)``, by the model class's names.

    A class keeps in float32 what it makes in float32, and what its ``_keep_in_fp32_modules`` name (a router's
    correction, a state-space model's decay): what is saved in less has lost digits that the class counts on.
    """
    config = copy.deepcopy(wanted.model.config)
    with torch.device("meta"):
        model = wanted.model_class._from_config(config, dtype=dtype)
    found = {name: tensor.dtype for name, tensor in model.state_dict().items() if tensor.dtype.is_floating_point}
    kept = model._get_dtype_plan(dtype)
    if kept:
        pattern, groups, _ = build_glob_alternation(list(kept))
        for name in found:
            if match := pattern.search(name):
                found[name] = kept[groups[match.lastgroup]]
    return found
