"""``clpds plan``: does it fit, how long, how many GPUs; said before anything is queued."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from clpds.accelerators import ACCELERATORS, accelerator
from clpds.cli import Plan
from clpds.errors import UserError
from clpds.planning.cost import (
    FITS,
    SHARE,
    UNIVERSAL,
    Device,
    Option,
    Work,
    cheapest,
    largest_micro_batch,
    options,
    world_sizes,
)
from clpds.planning.follow import sequence_length, stage_config
from clpds.planning.size import family_of, size_of
from clpds.planning.zero import Zero, read_zero
from clpds.recipe import Recipe, Train, load_recipe
from clpds.resources import find
from launcher.profile import load_profile, working_folder


def plan(options: Plan) -> None:
    """Print a screen for the recipe's training stage, or one for each."""
    recipe = load_recipe(options.recipe, options.overrides)
    gpu, per_node = options.gpu, options.gpus_per_node
    if options.profile is not None:
        profile = load_profile(options.profile)
        os.chdir(working_folder(profile, options.profile))
        gpu = gpu or profile.gpu or (None if profile.train.gpus_per_node else "cpu")
        per_node = per_node or profile.train.ranks_per_node
    if gpu is None:
        raise UserError(f"name the device with --gpu, or `gpu` in the profile; known: {', '.join(ACCELERATORS)}, cpu")
    device = device_of(gpu, per_node)
    show_plan(recipe, device, step=options.step, mfu=options.mfu, tokens_per_second=options.tokens_per_second)


def device_of(gpu: str, per_node: int | None) -> Device:
    """A GPU by name, or ``cpu``: this machine, whose memory its ranks share."""
    if gpu.lower() == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device("cpu", memory, None, per_node)
    return Device.gpu(accelerator(gpu), per_node)


def show_plan(
    recipe: Recipe, device: Device, *, step: str | None = None, mfu: float = 0.4, tokens_per_second: float | None = None
) -> None:
    """One screen a training step on stdout; UserError names what is missing, before anything is printed."""
    if step is None:
        stages = {name: found for name, found in recipe.steps.items() if isinstance(found, Train)}
    else:
        stages = {name: found for name, found in [recipe.only("train", step)] if isinstance(found, Train)}
    if not stages:
        recipe.only("train")  # says that there is none
    works = {name: _work(recipe, name, stage) for name, stage in stages.items()}
    console = Console(highlight=False, soft_wrap=True)
    for number, (name, work) in enumerate(works.items()):
        if number:
            console.print()
        _show(console, name, work, device, mfu, tokens_per_second)


def _work(recipe: Recipe, name: str, stage: Train) -> Work:
    try:
        config = stage_config(recipe, stage)
        if family_of(config) is None:
            sys.stderr.write(f"{name}: counting the parameters of a {config.get('model_type')} takes some seconds\n")
        return Work(size_of(config), stage, sequence_length(recipe, stage))
    except UserError as error:
        raise UserError(f"step {name}: {error}") from error


def _show(console: Console, name: str, work: Work, device: Device, mfu: float, speed: float | None) -> None:
    stage = work.stage
    configs = _configs(stage, device)
    found = options(work, configs, device, mfu=mfu, tokens_per_second=speed)
    _header(console, name, work)
    console.print(_table(work, configs, found, device))
    for line in [*_notes(configs, device, mfu, speed), *_host_notes(work, configs, found, device)]:
        console.print(line)
    chosen = cheapest(found)
    if chosen is None:
        least = min(found, key=lambda one: one.memory.total)
        console.print(
            f"[bold]Nothing fits.[/bold] {least.zero.name} on {_ranks(least.ranks, device)} comes closest with "
            f"{_gb(least.memory.total)} GB: lower micro_batch ({stage.micro_batch})"
            + ("" if stage.activation_checkpointing else ", set activation_checkpointing: true")
            + ", or take a larger device.\n"
        )
        _breakdown(console, least, device)
        return
    most = largest_micro_batch(work, chosen, device)
    unit = "rank" if device.is_cpu else "GPU"
    time = ""
    if chosen.hours is not None:
        time = f": {_hours(chosen.hours)}, in all {_hours(chosen.hours * chosen.ranks)} of a {unit}"
    console.print(
        f"[bold]Cheapest that fits: deepspeed: {chosen.zero.name}[/bold] on {_ranks(chosen.ranks, device)}{time}."
        f"\nThe largest micro_batch that fits there: {most}.\n"
    )
    _breakdown(console, chosen, device)


def _configs(stage: Train, device: Device) -> list[Zero]:
    """The recipe's own file and the shipped ones: float32 for a CPU, bf16 for a GPU."""
    own = find("ds_configs", stage.deepspeed)
    shipped = sorted(find("ds_configs", Path("cpu.json")).parent.glob("*.json"))
    files = shipped if own in shipped else [*shipped, own]
    usual = 4 if device.is_cpu else 2
    return [zero for file in files if (zero := read_zero(file)).width == usual or file == own]


def _header(console: Console, name: str, work: Work) -> None:
    size, stage = work.size, work.stage
    grid = Table.grid(padding=(0, 2))
    head = ("own output matrix", "tied", "tied, two heads")[min(size.parts.outputs, 2)]
    if stage.objective == "classification":
        head = "a classifier"
    grid.add_row(
        "model",
        f"{stage.model}: {size.kind}, {size.parameters:,} parameters"
        f" ({size.layers} layers, hidden {size.hidden}, vocabulary {size.vocabulary:,}, {head})",
    )
    if stage.trainable != ("*",):
        trained = sum(size.elements(size.trained(stage.trainable)))
        grid.add_row("trained", f"{trained:,} parameters ({', '.join(stage.trainable)})")
    grid.add_row(
        "budget",
        f"{stage.steps:,} steps x {stage.global_batch:,} blocks x {work.length:,} tokens = {work.tokens:,} tokens"
        f"{_predicted(work)}, {work.flops:.3g} FLOPs",
    )
    grid.add_row(
        "disk",
        f"{_gb(work.checkpoints)} GB for {stage.saving.keep_last} + 1 checkpoints,"
        f" {_gb(UNIVERSAL * size.parameters)} GB more to go on with another number of ranks,"
        f" {_gb(work.converted)} GB converted",
    )
    recompute = "recomputed" if stage.activation_checkpointing else "kept"
    grid.add_row("memory", f"micro batch {stage.micro_batch} x {work.length} tokens, activations {recompute}")
    console.print(f"[bold]{name}[/bold]")
    console.print(grid)


def _predicted(work: Work) -> str:
    """How many positions go through the head, where it is not all."""
    if work.stage.objective == "causal":
        return ""
    what = "texts told" if work.stage.objective == "classification" else "of them predicted"
    return f", {work.predictions:,.0f} {what}"


def _table(work: Work, configs: Sequence[Zero], found: Sequence[Option], device: Device) -> Table:
    """A row for each number of ranks, a column for each config: GB a rank, and hours where it fits."""
    unit = "rank" if device.is_cpu else "GPU"
    table = Table(box=box.SIMPLE_HEAD, title=f"GB per {unit}, and hours where it fits", title_justify="left")
    table.add_column("ranks" if device.is_cpu else "GPUs", justify="right", min_width=5)
    if device.per_node:
        table.add_column("nodes", justify="right", min_width=5)
    own = find("ds_configs", work.stage.deepspeed).name
    for zero in configs:
        label = zero.name.removesuffix(".json").replace("_offload", "\n_offload")
        table.add_column(label + ("\n(recipe)" if zero.name == own else ""), justify="right", no_wrap=True)
    for ranks in world_sizes(work.stage, device.per_node):
        cells = [_cell(one) for one in found if one.ranks == ranks]
        nodes = [f"{-(-ranks // device.per_node)}"] if device.per_node else []
        table.add_row(str(ranks), *nodes, *cells)
    totals = [next((one for one in found if one.zero == zero and one.fits and one.hours), None) for zero in configs]
    if any(totals):
        table.add_section()
        cells = [_hours(one.hours * one.ranks) if one and one.hours else "" for one in totals]
        table.add_row("rank h" if device.is_cpu else "GPU h", *([""] if device.per_node else []), *cells)
    return table


def _cell(one: Option) -> str:
    need = _gb(one.memory.total)
    if not one.fits:
        return f"[red]{need}      no[/red]"
    return f"[green]{need} {'fits' if one.hours is None else _hours(one.hours):>7}[/green]"


def _notes(configs: Sequence[Zero], device: Device, mfu: float, speed: float | None) -> list[str]:
    room = device.room(1) / 1e9
    notes = []
    if device.is_cpu:
        notes.append(f"Ranks of one machine share {room:,.1f} GB ({FITS:.0%} of this machine's memory).")
        if speed is None:
            notes.append("A CPU has no peak to reckon hours from: give the speed of one rank, --tokens-per-second.")
    else:
        notes.append(
            f"{device.name}: {room:,.1f} GB ({FITS:.0%} of what the driver reports), {device.peak:.3g} FLOP/s in bf16."
        )
    if speed is not None:
        notes.append(f"Hours at {speed:,.0f} tokens a second and rank, on any number of ranks.")
    elif device.peak is not None:
        shares = [f"{mfu * SHARE[kind]:.2g} assumed with offload to {kind}" for kind in ("cpu", "nvme")]
        notes.append(f"Hours at MFU {mfu:.2g} ({', '.join(shares)}), on any number of GPUs.")
        if any(zero.width == 4 for zero in configs):
            notes.append("No hours for float32 configs: the peak is that of bf16.")
    return notes


def _host_notes(work: Work, configs: Sequence[Zero], found: Sequence[Option], device: Device) -> list[str]:
    """What a save beside the training and offload ask of nodes: it is not checked, since the node is not known."""
    notes = []
    if work.stage.saving.asynchronous:
        notes.append(f"saving.asynchronous copies {_gb(work.checkpoint)} GB to host memory, over all ranks.")
    for zero in configs:
        first = next((one for one in found if one.zero == zero and one.fits and one.memory.host), None)
        if first:
            there = min(first.ranks, device.per_node or first.ranks)
            nvme = f" and {_gb(first.memory.nvme * there)} GB of NVMe" if first.memory.nvme else ""
            host = _gb(first.memory.host * there)
            notes.append(f"{zero.name} on {_ranks(first.ranks, device)} needs {host} GB of host memory{nvme} a node.")
    return notes


def _breakdown(console: Console, one: Option, device: Device) -> None:
    """The terms of one choice."""
    need = one.memory
    terms = [
        ("parameters", need.parameters, "in the config's type"),
        ("gradients", need.gradients, "accumulated"),
        ("optimizer", need.optimizer, "float32 masters and two moments"),
        ("buckets", need.buffers, "of gradients on their way"),
        ("libraries", need.context, "an allowance: the process, the device's context, NCCL"),
        ("gathered", need.gathered, "whole parameters in use or prefetched"),
        ("activations", need.activations, "kept for the backward pass"),
        ("logits", need.logits, "and the loss's copies in float32, or the largest gradient"),
        ("step", need.step, "counts where larger than the three above, which are gone by then"),
        ("peak", need.total, ""),
        ("host", need.host, "pinned memory of the node, for each rank"),
        ("NVMe", need.nvme, "local disk, for each rank"),
    ]
    table = Table.grid(padding=(0, 2))
    table.add_row("", f"   GB  {one.zero.name} on {_ranks(one.ranks, device)}")
    for term, amount, what in terms:
        if amount:
            table.add_row(term, f"{_gb(amount):>7}  {what}")
    console.print(table)


def _ranks(ranks: int, device: Device) -> str:
    if device.is_cpu:
        return f"{ranks} {'rank' if ranks == 1 else 'ranks'}"
    nodes = -(-ranks // device.per_node) if device.per_node else None
    where = "" if nodes is None else f" ({nodes} {'node' if nodes == 1 else 'nodes'})"
    return f"{ranks} {device.name}{where}"


def _gb(amount: float) -> str:
    return f"{amount / 1e9:,.{2 if amount < 1e10 else 1 if amount < 1e12 else 0}f}"


def _hours(hours: float) -> str:
    if hours < 0.01:
        return f"{hours * 3600:.0f} s" if hours * 3600 > 1 else "< 1 s"
    return f"{hours:.2f} h" if hours < 1 else f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"
