"""What a model costs that is built."""

from torch import nn
from transformers import PreTrainedModel

from clpds import flops
from clpds.checkpoint.anatomy import own_parameters
from clpds.flops import Flops, Parts


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
        shapes={name: tuple(getattr(held, "ds_shape", held.shape)) for name, held in parameters.items()},
        tables={names[id(module.weight)] for module in model.modules() if isinstance(module, nn.Embedding)},
        words=names[id(words)],
        outputs=sum(model.get_parameter(alias) is words for alias in model.all_tied_weights_keys),
        hidden=model.config.get_text_config().hidden_size,
    )
