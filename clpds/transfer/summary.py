"""What `clpds init` tells: a few lines and a short table on the screen, and the model card."""

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from clpds.checkpoint import Checkpoint
from clpds.output import human_bytes
from clpds.recipe import Init
from clpds.transfer.choose import Choice, best
from clpds.transfer.condition import Condition
from clpds.transfer.growth.step import Grown
from clpds.transfer.vocabulary_swap import Role
from clpds.vocabulary.adversarial import Unsupervised
from clpds.vocabulary.alignment import FEW, Alignment
from clpds.vocabulary.overlap import Overlap, coverage

GOING_ON = """## Going on

    clpds data --input TEXT... --tokenizer MODEL --sequence-length 1024 --out DATA
    clpds run recipe.yaml
    clpds convert RUN NEW_MODEL

MODEL is this folder, and `recipe.yaml` is

    steps:
      train:
        verb: train
        model: MODEL
        data: {target: {path: DATA}}
        out: RUN
        steps: 1000
        micro_batch: 4
        global_batch: 64
"""
TRILAYER = """A TRILayer stands before the middle block, a copy of it; the embeddings of the two languages
{head} drawn at random. transformers opens the model once `clpds.models` is imported."""
DOUBT = 2  # standard errors that a weighting must be better than the mean row
SAME = 0.5  # share of matches that two runs of an alignment without a dictionary share; unrelated spaces have less
CHANCE = 0.01  # precision of a dictionary below which an alignment is taken for none
NAMES: dict[Role, str] = {"input": "embedding", "output": "head"}


def show_growth(grown: Grown) -> None:
    """Two lines: what grew and how, and what that did to the logits."""
    _line(f"grown: {grown.change}; {grown.how}")
    _line(f"largest difference to the source's logits: {grown.measured}")


def show_overlap(shared: Overlap) -> None:
    """One line: how much of the new vocabulary the source has already."""
    _line(coverage(shared))


def show_rows(conditions: Mapping[Role, Condition], choice: Choice | None) -> None:
    """The ranking of weightings, the condition of the new rows, and a warning on stderr where they are unfit."""
    if choice:
        _ranking(choice)
    for role, numbers in conditions.items():
        _line(
            f"new rows of the {NAMES[role]}: {numbers.norm:.2f} times the shared rows' length, the longest "
            f"{numbers.longest:.2f} times theirs; mean pairwise cosine {numbers.pairwise:.3f} "
            f"(shared rows {numbers.source_pairwise:.3f})"
            + (f"; {numbers.plain:,} are just the shared rows' mean" if numbers.plain else "")
        )
    if choice is None:
        return
    complaint = next((text for numbers in conditions.values() if (text := numbers.complaint())), None)
    better = best(choice.scores)
    loss = {score.variant: score.loss for score in choice.scores}
    advice = f"{better.variant} (held-out loss {better.loss:.3f}, here {loss[choice.variant]:.3f})"
    if all(score.loss > loss[None] - DOUBT * score.error for score in choice.scores if score.variant):
        why = complaint or "this helper tells little"
        sys.stderr.write(
            f"clpds init: warning: {why}; no weighting predicts hidden tokens better than the mean row does, "
            "so train the helper longer or use --method subpieces\n"
        )
    elif complaint and better.loss < loss[choice.variant]:
        sys.stderr.write(f"clpds init: warning: {complaint}; better: {advice}\n")
    elif complaint:
        sys.stderr.write(f"clpds init: warning: {complaint}; ridge does no better with this helper\n")
    elif better.loss < loss[choice.variant]:
        _line(f"recommended: {advice}")


def show_shrink(share: float) -> None:
    """One line: that shared rows are not what they were."""
    _line(f"shared tokens' rows moved by {share:g} towards what the ridge map makes of them (--shrink 0 copies them)")


def show_extension(kept: int, added: int, left_out: int) -> None:
    """One line: what the extended vocabulary consists of."""
    _line(f"extended: {kept:,} tokens kept, {added:,} added, {left_out:,} left out that would never be formed")


def show_alignment(alignment: Alignment, pairs: int) -> None:
    """How well the dictionary fits, and a warning on stderr where the alignment finds next to no translation."""
    _line(
        f"dictionary: {alignment.pairs:,} of {pairs:,} pairs are in both embeddings; of {alignment.asked:,} held-out "
        f"words {alignment.precision:.1%} find their translation (by CSLS {alignment.precision_csls:.1%})"
    )
    if alignment.pairs < FEW * pairs:
        sys.stderr.write(
            f"clpds init: warning: only {alignment.pairs:,} of {pairs:,} pairs of the dictionary are in both "
            "embeddings; is it of these two languages?\n"
        )
    elif alignment.precision_csls < CHANCE:
        sys.stderr.write(
            "clpds init: warning: the alignment finds next to no translation; is the dictionary of these two "
            "languages, and are the embeddings trained on enough text?\n"
        )


def show_unsupervised(found: Unsupervised, instead: str) -> None:
    """How the spaces were aligned without a dictionary, and a warning on stderr where chance seems to have done it."""
    how = "training against an adversary and induction" if found.trained else "induction"
    _line(
        f"aligned without a dictionary, by {how}: mean CSLS {found.criterion:.3f}; the two best runs share "
        f"{found.agreement:.1%} of their matches"
    )
    if found.agreement < SAME:
        sys.stderr.write(
            f"clpds init: warning: the alignment seems to have failed, for its runs end in different maps; {instead}\n"
        )


def show_origins(counts: Mapping[str, int]) -> None:
    """One line: where the new rows come from."""
    _line(f"rows: {origins(counts)}")


def origins(counts: Mapping[str, int]) -> str:
    """``9 copied, 8,100 nearest, 91 drawn``."""
    return ", ".join(f"{count:,} {origin}" for origin, count in counts.items())


def show_written(out: Path, result: Checkpoint) -> None:
    """One line: what was written."""
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    _line(f"wrote {out}: {result.config.get_text_config().vocab_size:,} rows, {human_bytes(size)}")


def card(step: Init, shared: Overlap, result: Checkpoint, how: str, grown: Grown | None) -> str:
    """README.md of the new model: front matter that the Hub reads, what was done (``how`` the rows), how to go on."""
    base, target = _name(step.source), _name(step.helper or step.tokenizer)
    vocabulary = "new tokens behind its own" if step.extend else "another vocabulary"
    new, total = len(shared.missing), len(shared.target) + len(shared.missing)
    trilayer = ""
    if step.makes_trilayer:
        trilayer = TRILAYER.format(head="are" if step.keep_head else "and the prediction head are") + "\n"
    kinds = "\n".join(f"| shared, {kind} | {count:,} | {count / total:.1%} |" for kind, count in shared.how.items())
    rest = "Nothing else was changed." if grown or trilayer else "Every other tensor is the source's, unchanged."
    body = (f"{grown.card()}\n" if grown else "") + trilayer + rest
    return f"""{_front(base, "vocabulary-transfer")}
# {base} under the vocabulary of {target}

The body of `{base}` with {vocabulary}, as `clpds init` made it: a starting point for
training, not yet a model of its language.

Vocabulary rows: {how}.
{body} `provenance.json` has the parameters, the hashes of the inputs
and the measurements.

| tokens | count | share |
|---|---|---|
{kinds}
| new | {new:,} | {new / total:.1%} |

The embedding has {result.config.get_text_config().vocab_size:,} rows.

{GOING_ON}"""


def grown_card(step: Init, grown: Grown) -> str:
    """README.md of a model that was grown and kept its vocabulary."""
    base = _name(step.source)
    return f"""{_front(base, "model-growth")}
# {base}, grown

`{base}` made larger, as `clpds init` did it: it computes what the small model computes, and training goes on from
there.

{grown.card()}
The vocabulary is the source's. `provenance.json` has the parameters, the hashes of the inputs and the
measurements.

{GOING_ON}"""


def remade_card(step: Init, how: str, grown: Grown | None) -> str:
    """README.md of a model that was cut, or had a head or an embedding exchanged; ``how`` is a sentence."""
    base = _name(step.source)
    rest = grown.card() if grown else "Every other tensor is the source's, unchanged."
    return f"""{_front(base, "mini-model-adaptation")}
# {base}: {step.method}

{how} The method is mini-model adaptation (Marchisio et al. 2023, arXiv 2212.10503).
{rest} `provenance.json` has the parameters and the hashes of the inputs.

{GOING_ON}"""


def merged_card(step: Init) -> str:
    """README.md of a model that was put together from two TRILayer models."""
    upper, lower = _name(step.source), _name(step.lower)
    return f"""{_front(upper, "model-merge")}
# {upper} over {lower}

The blocks below the TRILayer are those of `{lower}`, those above it those of `{upper}`; all else is the mean of the
two. transformers opens the model once `clpds.models` is imported. `provenance.json` has the hashes of the inputs.

{GOING_ON}"""


def _front(base: str, tag: str) -> str:
    return f"""---
base_model: {base}
library_name: transformers
tags:
- clpds
- {tag}
---
"""


def _name(path: Path | None) -> str:
    """A hub id as it is, a path without its folders: equal inputs give an equal card."""
    return "" if path is None else path.name if path.exists() else str(path)


def _ranking(choice: Choice) -> None:
    table = Table(title="shared tokens predicted from the others", title_justify="left", box=SIMPLE)
    table.add_column("weighting")
    table.add_column("loss", justify="right")
    table.add_column("cosine", justify="right")
    kinds = set()
    for score in choice.scores:  # best first: the first of a kind is its best
        kind = score.variant.kind if score.variant else "mean row"
        chosen = score.variant == choice.variant
        if kind not in kinds or chosen:
            name = str(score.variant or "the mean row for all").removeprefix("--weighting ")
            table.add_row(f"{name} *" if chosen else name, f"{score.loss:.3f}", f"{score.cosine:z.3f}")
        kinds.add(kind)
    Console(soft_wrap=True).print(table)


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
