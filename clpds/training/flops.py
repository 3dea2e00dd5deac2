"""What a model costs that is built."""

import re

from torch import nn
from transformers import PreTrainedModel

from clpds import flops
from clpds.checkpoint.anatomy import own_parameters
from clpds.flops import Flops, Parts

# What configs call the number of experts that a token is sent to, and how many there are.
CHOSEN = re.compile(r"(num_)?(selected_)?experts_per_tok(en)?|moe_?top_?k|moe_k|top_k_experts|num_selected_experts")
COUNTED = re.compile(r"(moe_)?num_(local_|routed_)?experts|n_(routed_)?experts")


def step_flops(model: PreTrainedModel, sequence_length: int) -> Flops:
    """With the parameters that train now, be they sliced over ranks or on the meta device."""
    trained = {name for name, parameter in own_parameters(model).items() if parameter.requires_grad}
    return flops.step_flops(model_parts(model), trained, sequence_length)


def model_parts(model: PreTrainedModel) -> Parts:
    """What of the model decides its cost."""
    parameters = own_parameters(model)
    names = {id(parameter): name for name, parameter in parameters.items()}
    words = model.get_input_embeddings().weight
    return Parts(
        shapes={name: _shape(held) for name, held in parameters.items()},
        tables={names[id(module.weight)] for module in model.modules() if isinstance(module, nn.Embedding)},
        words=names[id(words)],
        outputs=sum(model.get_parameter(alias) is words for alias in model.all_tied_weights_keys),
        hidden=getattr(model.config.get_text_config(), "hidden_size", None) or _shape(words)[-1],
        met=met(model),
    )


def met(model: PreTrainedModel) -> dict[str, float]:
    """The share of each stack of experts that a token is sent through: k of E, by parameter name.

    transformers keeps the experts of a layer in one tensor, (E, out, in) or (E out, in) in DBRX; those that all
    tokens share are not among them. Experts that do nothing (LongCat's) are chosen as well.
    """
    config = model.config.get_text_config().to_dict()
    inner = config.get("ffn_config")  # DBRX
    config |= inner if isinstance(inner, dict) else {}
    chosen = next((value for key, value in config.items() if CHOSEN.fullmatch(key) and value), None)
    counts = {value for key, value in config.items() if COUNTED.fullmatch(key) and isinstance(value, int)}
    if chosen is None or not counts:
        return {}
    idle = config.get("zero_expert_num") or 0
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.modules.conv._ConvNd)}
    found = {}
    for name, parameter in own_parameters(model).items():
        shape, home = _shape(parameter), name.rpartition(".")[0]
        if home in convolutions or "shared_expert" in name:
            continue
        stacked = len(shape) == 3 and bool({shape[0], shape[0] - idle} & counts)
        flat = len(shape) == 2 and ".experts." in name
        if stacked or flat:
            experts = shape[0] if stacked else max(counts)
            layer = re.search(r"\.(\d+)\.", name)
            most = chosen[int(layer[1])] if isinstance(chosen, list) and layer else chosen
            found[name] = min(1.0, most / (experts + (idle if experts in counts else 0)))
    return found


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
