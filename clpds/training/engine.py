"""The DeepSpeed engine: its JSON completed from the stage, the model sliced over ranks, AdamW."""

import copy
from fnmatch import fnmatchcase
from typing import Any, Self

import deepspeed
import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.integrations.deepspeed import prevent_arange_dtype_change

from clpds.bounds import SETTINGS
from clpds.checkpoint import Checkpoint, LazyTensor, anatomy
from clpds.checkpoint.anatomy import own_parameters
from clpds.checkpoint.safetensors import is_finite
from clpds.errors import UserError
from clpds.inside import read_json
from clpds.recipe import Train
from clpds.resources import find
from clpds.training.extensions import optimizer_device
from clpds.training.group import agree, largest


def deepspeed_config(stage: Train, world_size: int) -> dict[str, Any]:
    """The stage's DeepSpeed JSON with the batch sizes and the clipping of the recipe filled in.

    Raises UserError where the file contradicts the recipe, and where the global batch does not
    divide among the ranks.
    """
    file = find("ds_configs", stage.deepspeed)
    try:
        config: dict[str, Any] = read_json(file, SETTINGS)
        zero_stage(config)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"{file} is no DeepSpeed configuration: expected a JSON object with zero_optimization"
        ) from error
    at_once = stage.micro_batch * world_size
    if stage.global_batch % at_once:
        raise UserError(
            f"global_batch {stage.global_batch} is no multiple of micro_batch x ranks = "
            f"{stage.micro_batch} x {world_size}; change global_batch or micro_batch"
        )
    ours = {
        "train_batch_size": ("global_batch", stage.global_batch),
        "train_micro_batch_size_per_gpu": ("micro_batch", stage.micro_batch),
        "gradient_accumulation_steps": ("global_batch / (micro_batch x ranks)", stage.global_batch // at_once),
        "gradient_clipping": ("optimizer.clip", stage.optimizer.clip),
    }
    for key, (name, value) in ours.items():
        if config.get(key, "auto") not in ("auto", value):
            raise UserError(f"{file}: {key} is {config[key]}, but {name} of the recipe is {value}; remove the key")
        config[key] = value
    if zero_stage(config) not in (1, 2, 3):
        raise UserError(f"{file}: zero_optimization.stage is {zero_stage(config)}; give 1, 2 or 3")
    if (config["zero_optimization"].get("offload_param") or {}).get("device") == "nvme":
        raise UserError(f"{file}: parameters cannot be offloaded to NVMe; give offload_param cpu, or remove it")
    for key in ("optimizer", "scheduler"):
        if key in config:
            raise UserError(f"{file}: '{key}' is decided by the recipe's section of that name; remove the key")
    # DeepSpeed prints throughput itself unless told not to; we have our own line.
    return {"steps_per_print": 2**31, **config}


def zero_stage(config: dict[str, Any]) -> int:
    """0 to 3."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def build_model(checkpoint: Checkpoint, config: dict[str, Any], device: torch.device) -> PreTrainedModel:
    """The model class with the checkpoint's weights; under ZeRO-3 each rank reads only its own slice.

    Under ZeRO-3 a parameter's ``ds_tensor`` is elements [r n, (r + 1) n) of the row-major flat
    tensor, n = ceil(numel / ranks), so that a rank reads 1/N of the bytes and nothing is broadcast.
    Raises UserError on every rank, naming the tensors, if any value is NaN or infinite.
    """
    cls = anatomy(checkpoint.config).model_class
    sliced = zero_stage(config) == 3
    with no_init_weights(), prevent_arange_dtype_change():
        with _EmptyInit(config_dict_or_path=config, enabled=sliced) as empty:
            model = cls(checkpoint.config)
            if sliced:
                empty.slice_rest(model)
        model.tie_weights()
    parameters = own_parameters(model)

    def fill() -> list[bool]:
        finite = []
        for name, lazy in checkpoint.tensors.items():
            if sliced and name in parameters:
                values, goal = _slice(lazy, parameters[name])
            else:
                values, goal = lazy.load(), model.get_parameter_or_buffer(name).data
            finite.append(is_finite(values))
            goal.copy_(values)
        return finite

    bad = largest(~torch.tensor(agree(fill), device=device)).tolist()
    names = [name for name, flag in zip(checkpoint.tensors, bad, strict=True) if flag]
    if names:
        raise UserError(f"{checkpoint.path}: NaN or infinity in {', '.join(names[:5])}; do not train on this")
    return model


class _EmptyInit(deepspeed.zero.Init):  # type: ignore[misc]
    """zero.Init for a model whose parameters are filled afterwards: the values that they have until then cost nothing.

    DeepSpeed (0.19.8) makes each of them in float32, casts it, and broadcasts rank 0's: a model's bytes on the wire,
    and 2.7 of 5.7 s for 1.2B on two ranks.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        if self.enabled:
            empty = torch.empty  # DeepSpeed's, which casts; it puts back torch's own at the end

            def empty_in_dtype(*size: Any, dtype: torch.dtype | None = None, **rest: Any) -> torch.Tensor:
                return empty(*size, dtype=dtype or self.dtype, **rest)

            torch.empty = empty_in_dtype
        return self

    def slice_rest(self, model: nn.Module) -> None:
        """Slice what DeepSpeed has missed: it looks at a module once made, and a ParameterList is filled later."""
        for parameter in model.parameters():
            if not hasattr(parameter, "ds_tensor"):
                parameter.data = parameter.data.to(self.local_device, self.dtype)
                self._zero_init_param(parameter)

    def _zero_init_param(self, param: nn.Parameter) -> None:
        self._convert_to_deepspeed_param(param)
        param.partition()  # type: ignore[attr-defined]
        # zero_hpz_partition_size: the node's copy is of values not set, and would be trained on until the first step.
        param.ds_secondary_tensor = None  # type: ignore[attr-defined]


def _slice(lazy: LazyTensor, parameter: nn.Parameter) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's elements of a tensor and the part of the partition that they fill (the rest is padding)."""
    held = parameter.ds_tensor.data  # type: ignore[attr-defined]
    first = dist.get_rank() * held.numel()
    values = lazy.flat(min(first, lazy.numel), min(first + held.numel(), lazy.numel))
    held.zero_()
    return values, held[: values.numel()]


def freeze(model: PreTrainedModel, trainable: tuple[str, ...]) -> None:
    """Let only parameters train whose name matches a shell pattern; UserError for one that matches none."""
    parameters = own_parameters(model)
    names = list(parameters)
    for pattern in trainable:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"trainable: no parameter matches '{pattern}'; names look like {names[0]}, {names[-1]}")
    for name, parameter in parameters.items():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in trainable))


def parameter_groups(model: nn.Module, stage: Train) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors (norms, biases) without."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if len(_shape(p)) > 1]
    vectors = [p for p in trained if len(_shape(p)) <= 1]
    settings = {"betas": stage.optimizer.betas, "eps": stage.optimizer.eps, "lr": stage.optimizer.lr}
    groups = [
        {"params": matrices, "weight_decay": stage.optimizer.weight_decay, **settings},
        {"params": vectors, "weight_decay": 0.0, **settings},
    ]
    return [group for group in groups if group["params"]]


def build_engine(model: PreTrainedModel, stage: Train, config: dict[str, Any], device: torch.device) -> Any:
    """Hand model and AdamW to DeepSpeed; returns its engine, in training mode."""
    if stage.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    groups = parameter_groups(model, stage)
    if optimizer_device(config) != "none":
        optimizer = deepspeed.ops.adam.DeepSpeedCPUAdam(groups, adamw_mode=True)
    else:
        optimizer = torch.optim.AdamW(groups, fused=device.type == "cuda")
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    engine.train()
    return engine


def forget_forward_passes(engine: Any) -> None:
    """Let ZeRO-3 learn the order of modules from whole steps; to be called between passes without gradients and these.

    DeepSpeed (0.19.8) notes for good when a parameter may be released. What it learns while nothing goes backward, in
    the trial of `can_isolate` or a validation before the first step, is to release all of them after each forward
    pass: it then gathers them again one by one in every backward pass, 1.9 s instead of 1.3 of a 135M on two ranks.
    """
    offload = getattr(engine.optimizer, "parameter_offload", None)
    if offload is None:
        return
    coordinator = offload.get_param_coordinator()
    if not coordinator.is_invalid_trace():
        coordinator._invalidate_trace()
    offload.param_coordinator = copy.copy(coordinator)  # the notes are a cache, and it goes by the object


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
