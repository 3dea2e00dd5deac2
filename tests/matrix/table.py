"""What came out: totals, a TSV, and the page that a user looks his model up in."""

from collections.abc import Mapping
from pathlib import Path

import transformers

from tests.matrix.build import Kind
from tests.matrix.check import COLUMNS, Outcome

Outcomes = Mapping[Kind, Outcome]
WRONG = ("SILENT", "TRACEBACK")
GOOD = {
    "ok": "works",
    "ok with one document a block": "works with one document a block",
}
WORDS = (*GOOD, "refused", *WRONG)
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
VERBS = {"init subpieces": "init", "init clp": "init", "train": "train", "eval": "eval", "plan": "plan"}
HEADS = {"causal": "Models that go on with a text", "masked": "Models that fill gaps"}


def built(outcomes: Outcomes) -> dict[Kind, Outcome]:
    """Those that transformers itself builds, runs and reloads."""
    return {kind: found for kind, found in outcomes.items() if "plain" not in found}


def right(found: Outcome) -> bool:
    """Whether init, train and eval all do what they should."""
    return all(found[column].startswith("ok") for column in COLUMNS if column != "plan")


def wrong(outcomes: Outcomes) -> list[Kind]:
    """Those where something is silently wrong or ends in a traceback."""
    return [kind for kind, found in outcomes.items() if any(said.startswith(WRONG) for said in found.values())]


def totals(outcomes: Outcomes) -> str:
    """A line a column, and how many are right in all that matters."""
    tried = built(outcomes)
    rows = [("", *WORDS)]
    for column in COLUMNS:
        words = [found[column].partition(":")[0] for found in tried.values()]
        rows.append((column, *(str(words.count(word)) for word in WORDS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    good = sum(map(right, tried.values()))
    lines.append(f"{good} of {len(tried)} right in init, train and eval; {len(wrong(outcomes))} with something wrong")
    return "\n".join(lines)


def tsv(outcomes: Outcomes) -> str:
    """A line a model, with every outcome whole."""
    lines = [("type", "head", "class", "plain transformers", *COLUMNS)]
    for kind, found in sorted(outcomes.items()):
        rest = (found[column] if "plain" not in found else "-" for column in COLUMNS)
        lines.append((kind.type, kind.head, kind.name, found.get("plain", "ok"), *rest))
    return "".join("\t".join(" ".join(cell.split()) for cell in line) + "\n" for line in lines)


def page(outcomes: Outcomes) -> str:
    """docs/models.md."""
    tried = built(outcomes)
    lines = [
        f"<!-- Written by `python -m tests.matrix` with transformers {transformers.__version__}; do not edit. -->",
        "# Which models work",
        "",
        f"Every language model of transformers {transformers.__version__} that can be built small was put through "
        "`init`, `train`, `convert`, `eval` and `plan`,",
        "and each result compared with plain transformers and torch, one document at a time "
        "([architecture.md](architecture.md)).",
        f"{sum(map(right, tried.values()))} of {len(tried)} work.",
        "",
        "* **works**: what `init`, `train`, `convert` and `eval` make is what plain transformers makes of it",
        "* **works with one document a block**: `data --one-document` for training, or for causal models "
        "`isolate_documents: false`, where documents of one block see those before them; `eval` is exact all the same",
        "* **refused**: the command stops with this line and writes nothing",
        "* **does not work**: something is wrong here, which a later version should mend",
        "",
        "The type is `model_type` in a model's `config.json`.",
    ]
    for head, title in HEADS.items():
        lines += ["", f"## {title}", "", "| type | class | |", "|---|---|---|"]
        own = {kind: found for kind, found in sorted(tried.items()) if kind.head == head}
        lines += [f"| {kind.type} | {kind.name} | {_cell(found)} |" for kind, found in own.items()]
    lines += ["", "## Not tried", "", "These cannot be built small, or transformers itself does not reload them.", ""]
    lines += ["| type | class | why |", "|---|---|---|"]
    rest = {kind: found for kind, found in sorted(outcomes.items()) if "plain" in found}
    lines += [f"| {kind.type} | {kind.name} | {_short(found['plain'])} |" for kind, found in rest.items()]
    return "\n".join(lines) + "\n"


def _cell(found: Outcome) -> str:
    """What a user wants to know of a model, in a line."""
    good = GOOD.get(found["train"], "works")
    said: dict[str, list[str]] = {}
    for column in COLUMNS:
        verbs = said.setdefault("" if found[column].startswith("ok") else _short(found[column]), [])
        if VERBS[column] not in verbs:
            verbs.append(VERBS[column])
    fine = said.pop("", [])
    if not said:
        return good
    parts = [f"{', '.join(verbs)} {why}" for why, verbs in said.items()]
    if right(found):
        return f"{good}; {'; '.join(parts)}"
    return "; ".join([f"{', '.join(fine)} {'work' if len(fine) > 1 else 'works'}", *parts] if fine else parts)


def _short(outcome: str) -> str:
    """An outcome as a cell of a table."""
    word, _, line = outcome.partition(": ")
    line = " ".join(line.split()).replace("|", "\\|")
    line = line if len(line) <= 160 else line[:157] + "..."
    return {"refused": f"refused: {line}"}.get(word, "does not work" if word in WRONG else f"{word}: {line}")
