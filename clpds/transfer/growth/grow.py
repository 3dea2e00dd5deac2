"""The grown checkpoint: every tensor made from the source's by its family's rule, when it is asked for."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from clpds.checkpoint import Checkpoint, LazyTensor, anatomy
from clpds.errors import UserError
from clpds.transfer.growth.expand import Axis, Draw, read, write
from clpds.transfer.growth.plan import Growth, Plan, plan

End = Callable[[Tensor, int, Axis, Draw], Tensor]


def grow(source: Checkpoint, growth: Growth) -> Checkpoint:
    """``source`` at the sizes of ``growth``, computing the same function; nearly, with noise or the fill small.

    Lazy: a tensor is computed when it is loaded, in the source's dtype, and what is drawn depends on
    ``growth.seed`` and the tensor's name alone. Raises UserError for a family or setting without a table,
    for sizes that do not fit together, and for a fill that cannot keep this architecture's function.
    """
    made = plan(source.config, growth)
    for name in source.tensors:
        if _pattern(name)[0] not in made.family.rules:
            raise UserError(f"no growth rule for {name} of {source.config.model_type}")
    wanted = anatomy(made.config).shapes
    tensors = {name: _grown(name, shape, source, made, growth.seed) for name, shape in wanted.items()}
    return replace(source, tensors=tensors, config=made.config)


def _grown(name: str, shape: tuple[int, ...], source: Checkpoint, made: Plan, seed: int) -> LazyTensor:
    """The tensor ``name`` of the grown model; the source's own where nothing about it changes."""
    pattern, layer = _pattern(name)
    origin, new = (0, False) if layer is None else made.layers[layer]
    old = source.tensors[pattern.replace("*", str(origin))]
    rule = made.family.rules[pattern]
    if layer is not None and _gives_up_its_norm(pattern, layer, made):
        load = partial(torch.full, shape, float(rule == "gain"), dtype=old.dtype)
    elif new and _written(rule)[0] == "h":
        load = partial(_silent, name, shape, old, made.noise, seed)
    elif rule in ("gain", "shift"):
        last = layer is None or layer == len(made.layers) - 1
        load = partial(_norm, old, rule, made, final=last and pattern.rpartition(".")[0] == made.family.final_norm)
    elif _ends(rule, made, new=new):
        load = partial(_matrix, name, old, _ends(rule, made, new=new), made, seed)
    else:
        return old
    return LazyTensor(shape, old.dtype, load, origin=f"{name}, grown from {old.origin}")


def _matrix(name: str, old: LazyTensor, ends: list[tuple[str, int, Axis, End]], made: Plan, seed: int) -> Tensor:
    """A weight or bias with each of its axes grown, and scaled where it writes to a scaled stream."""
    tensor = old.load()
    draw = _draw(name, tensor, made.noise, seed)
    for symbol, dim, axis, end in ends:
        tensor = end(tensor, dim, axis, draw)
        if end is write and symbol in ("h", "e"):
            tensor = tensor * made.written
    return tensor


def _norm(old: LazyTensor, rule: str, made: Plan, *, final: bool) -> Tensor:
    """A norm's gain or shift over the wider stream; new coordinates, which hold the mean or zero, are not shifted."""
    tensor, axis = old.load(), made.axes.get("h")
    if axis is None:
        return tensor
    if axis.fill == "copy":
        tensor = tensor.repeat(axis.new // axis.old)
    else:
        fresh = tensor.float().mean().to(tensor.dtype) if rule == "gain" else tensor.new_zeros(())
        tensor = torch.cat([tensor, fresh.expand(axis.new - axis.old)])
    factor = (made.gain if rule == "gain" else 1.0) * (made.final if final else 1.0)
    return tensor * factor


def _silent(name: str, shape: tuple[int, ...], old: LazyTensor, noise: float, seed: int) -> Tensor:
    """What a new layer writes to the stream: nothing, but for the noise."""
    zeros = torch.zeros(shape, dtype=old.dtype)
    return _draw(name, old.load(), noise, seed).noisy(zeros) if noise else zeros


def _gives_up_its_norm(pattern: str, layer: int, made: Plan) -> bool:
    """Whether a post-LN layer's norm becomes plain because a layer was put above the one it belongs to.

    Normalising twice is normalising once if nothing is scaled or shifted in between. So of a layer and the
    new ones above it, only the last keeps the gain and shift of the output, in the source's values.
    """
    if made.family.post_norms is None:
        return False
    first, last = made.family.post_norms
    norm = pattern.rpartition(".")[0]
    origin, new = made.layers[layer]
    followed = layer + 1 < len(made.layers) and made.layers[layer + 1] == (origin, True)
    return (norm == first and new) or (norm == last and followed)


def _pattern(name: str) -> tuple[str, int | None]:
    """A tensor's name with ``*`` for the number of its layer, and that number."""
    number = re.search(r"\.(\d+)\.", name)
    return (name.replace(number[0], ".*.", 1), int(number[1])) if number else (name, None)


def _written(rule: str) -> tuple[str, int]:
    """The symbol that a tensor writes and the dimension where."""
    if " -> " in rule:
        return rule.partition(" -> ")[2], 1
    return rule.partition(" <- ")[0], 0


def _ends(rule: str, made: Plan, *, new: bool) -> list[tuple[str, int, Axis, End]]:
    """The ends of a rule that grow: symbol, dimension, axis and what is done there; the writing one first.

    Nothing is read of a new layer, so that its added heads and neurons need not be copies of others.
    """
    symbol, dim = _written(rule)
    ends: list[tuple[str, int, End]] = [(symbol, dim, write)]
    if " " in rule:
        ends.append((rule.split(" ")[2 - 2 * dim], 1 - dim, read))
    found = []
    for symbol, dim, end in ends:
        axis = made.axes.get(symbol.strip("3"))
        if axis and new and symbol not in ("h", "e"):
            axis = replace(axis, fill="unread")
        if axis:
            found.append((symbol, dim, axis.of(symbol), end))
    return found


def _draw(name: str, tensor: Tensor, noise: float, seed: int) -> Draw:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return Draw(generator, tensor, noise)
