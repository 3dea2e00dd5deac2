"""Which tables a model looks rows up in, and with what: found by a forward pass in which no weight has a value.

Token ids, positions and hashes are integers on the CPU and are computed as always; whatever meets a weight is on the
meta device, costs nothing and says nothing. So a table of positions is told from one of tokens by what the class
does with it, not by its name.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from clpds.checkpoint.anatomy import Anatomy, meta_model
from clpds.errors import UserError

LENGTH = 12
aten = torch.ops.aten
# Functions that read rows of a tensor: where the tensor and where the rows' numbers stand among the arguments.
READERS = {
    aten.embedding.default: (0, 1), aten.index_select.default: (0, 2), aten.gather.default: (0, 2),
    aten.index.Tensor: (0, 1),
}  # fmt: skip
Lookups = Mapping[str, list[Tensor]]
"""Name of a parameter or buffer to the numbers of its rows that each look-up asked for, int64."""


def lookups(config: PretrainedConfig, ids: Tensor) -> Lookups:
    """What a forward pass over ``ids`` (N,) int64 looks up, as far as it can be followed without values."""
    config = copy.deepcopy(config)
    config._experts_implementation = "batched_mm"  # the others count the tokens of an expert, which nobody knows here
    config.use_cache = False
    model = meta_model(config).eval()
    _fill_buffers(model)
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    with torch.no_grad(), _Following(names) as mode:
        try:
            model(input_ids=ids[None])
        except Exception:  # it has asked for a value of a weight: what came before is known
            return mode.found
    return mode.found


def require_known_tables(found: Anatomy) -> None:
    """UserError that names a table whose rows belong to token ids and that is no part of the known vocabulary.

    So does a model that has a meaning of its own for an id that its config does not name (CPM-Ant: 0 is padding).
    """
    first, second = torch.arange(3, 3 + LENGTH), torch.arange(3, 3 + LENGTH).flip(0)
    one, other = (lookups(found.model.config, ids) for ids in (first, second))
    for name in one:
        if name in found.vocabulary or name in found.tied or _same(one[name], other.get(name, [])):
            continue
        direct = any(torch.equal(rows, first) for rows in one[name])
        how = "has a row for each token id" if direct else "is looked up by a hash of token ids"
        raise UserError(
            f"{found.model_class.__name__}: {name} {how}, which a new vocabulary would leave behind; "
            "no vocabulary can be given to this model"
        )
    named = {value for key, value in vars(found.model.config.get_text_config()).items() if key.endswith("_token_id")}
    for fixed in {0, 1} - named:
        odd = first.clone()
        odd[LENGTH // 2] = fixed
        for name, rows in lookups(found.model.config, odd).items():
            if name not in found.vocabulary and name not in found.tied and not _same(one.get(name, []), rows):
                raise UserError(
                    f"{found.model_class.__name__} has other rows of {name} beside token {fixed}, whatever that token "
                    "is; no vocabulary can be given to this model"
                )


def position_tables(found: Anatomy, after: PretrainedConfig) -> list[str]:
    """The tables whose positions are counted from the padding id, and so move when the config becomes ``after``.

    Raises UserError where one follows no such rule, or takes another id than the padding id for padding.
    """
    before = found.model.config
    old_pad, new_pad = (getattr(config.get_text_config(), "pad_token_id", None) for config in (before, after))
    if old_pad == new_pad:
        return []
    start = max(old_pad or 0, new_pad or 0) + 1
    if start + LENGTH > min(before.get_text_config().vocab_size, after.get_text_config().vocab_size):
        start = next(n for n in range(start) if not {old_pad, new_pad} & set(range(n, n + LENGTH)))
    ids = torch.arange(start, start + LENGTH)
    old, new = lookups(before, ids), lookups(after, ids)
    with_old = ids.clone()
    if old_pad is not None:
        with_old[LENGTH // 2] = old_pad
    odd = lookups(after, with_old)
    computed, recomputed = _buffers(before), _buffers(after)
    moved = []
    for name in old:
        if name in found.vocabulary or name in found.tied:
            continue
        if not _same(new.get(name, []), odd.get(name, [])):
            raise UserError(
                f"{before.model_type} takes token {old_pad} for padding, whatever the padding id is, and gives it no "
                f"position ({name}); use a tokenizer whose pad token has id {old_pad}"
            )
        if _same(old[name], new.get(name, [])):
            first = min(int(rows.min()) for rows in old[name])
            if name in computed and not torch.equal(computed[name][first:], recomputed[name][first:]):
                raise UserError(
                    f"{before.model_type} computes {name} otherwise where the pad token has another id; use a "
                    f"tokenizer whose pad token has id {old_pad}"
                )
            continue
        if new_pad is None:
            raise UserError(
                f"{before.model_type} counts positions from the padding id, but the tokenizer has no pad token"
            )
        by = new_pad - (old_pad or 0)
        if not _same([rows + by for rows in old[name]], new.get(name, [])):
            raise UserError(f"{before.model_type}: {name} follows the padding id by no rule that is known here")
        moved.append(name)
    return moved


def _buffers(config: PretrainedConfig) -> dict[str, Tensor]:
    """What the class computes of this config alone (XGLM's sinusoids), by name."""
    model = meta_model(config)
    _fill_buffers(model)
    return dict(model.named_buffers())


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def _fill_buffers(model: PreTrainedModel) -> None:
    """Values for the buffers, as ``from_pretrained`` computes them; parameters stay without."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    with no_init_weights():  # of parameters; the rest is each class's own code
        model.initialize_weights()


class _Following(TorchDispatchMode):
    """Notes what is looked up; moves to the meta device what meets it, and keeps off it what does not."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.found: dict[str, list[Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in READERS and (name := self.names.get(id(args[READERS[func][0]]))):
            rows = args[READERS[func][1]]
            rows = next((one for one in rows if one is not None), None) if isinstance(rows, list) else rows
            if isinstance(rows, Tensor) and not rows.is_meta and rows.dtype in (torch.int64, torch.int32):
                self.found.setdefault(name, []).append(rows.detach().long().reshape(-1).clone())
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return args[0].dtype.is_floating_point and 0.0  # a branch that hangs on a weight: either will do
        if func is aten.nonzero.default and args[0].is_meta:
            return args[0].new_empty((0, args[0].dim()), dtype=torch.int64)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta":
            kwargs["device"] = torch.device("cpu") if not _meta(args) else kwargs["device"]
        if _meta((args, kwargs)):
            args, kwargs = tree_map(lambda one: one.to("meta") if isinstance(one, Tensor) else one, (args, kwargs))
        return func(*args, **kwargs)


def _meta(values: Iterable[Any]) -> bool:
    return bool(tree_any(lambda one: isinstance(one, Tensor) and one.is_meta, values))
