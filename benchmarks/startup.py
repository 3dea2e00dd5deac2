"""Commands that compute nothing: they are typed on login nodes, by people who wait for them."""

import sys

from transformers import LlamaConfig

from benchmarks.bench import Bench
from benchmarks.checkpoints import random_checkpoint
from benchmarks.costs import clpds, cost_of, seconds, take_turns
from benchmarks.table import Row

RECIPE = """steps:
  tokenizer: {{verb: tokenizer, input: [{folder}/text.txt], vocab_size: 256, out: {folder}/tokenizer}}
  data:
    {{verb: data, input: [{folder}/text.txt], tokenizer: {folder}/tokenizer, sequence_length: 128, out: {folder}/data}}
  train:
    {{verb: train, model: {folder}/model, data: {{text: {{path: {folder}/data}}}}, steps: 100, micro_batch: 4,
      global_batch: 64, out: {folder}/run}}
"""


def measure(bench: Bench) -> list[Row]:
    """Each beside an interpreter that does nothing, three times."""
    config = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    model = random_checkpoint(bench.folder / "model", config)
    recipe = bench.folder / "recipe.yaml"
    (bench.folder / "text.txt").write_text("text\n")
    recipe.write_text(RECIPE.format(folder=bench.folder))
    commands = {
        "--help": clpds("--help"),
        "init --help": clpds("init", "--help"),
        "inspect": clpds("inspect", model),
        "plan": clpds("plan", recipe, "--gpu", "A100-40GB"),
        "submit --dry-run": clpds("submit", recipe, "--profile", "local.yaml", "--dry-run"),
    }
    nothing = [sys.executable, "-c", "pass"]
    entrants = {what: lambda command=command: cost_of(command) for what, command in commands.items()}
    costs = take_turns(entrants | {"nothing": lambda: cost_of(nothing)}, rounds=1 if bench.quick else 3)
    base = seconds(costs["nothing"])
    return [
        Row(
            f"clpds {what}",
            f"{seconds(costs[what]):.2f} s",
            f"python -c pass: {base:.2f} s",
            seconds(costs[what]),
            "s",
            "<",
            0.7,
            {"seconds": [cost.seconds for cost in costs[what]]},
        )
        for what in commands
    ]
