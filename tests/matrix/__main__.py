"""Put every language model of the installed transformers through init, train, convert, eval and plan; `make matrix`.

    python -m tests.matrix [TYPE ...] [--tsv FILE]

Each is built small and compared with plain transformers, one document at a time (``oracle.py``). Prints a line a
model and totals, and writes docs/models.md; with types only these, in detail, and no page. Exit status 1 if anything
is silently wrong or ends in a traceback. 20 minutes on two cores.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import tests.conftest  # noqa: F401  # sets what must be set before libraries are imported
from tests.matrix import runner, table
from tests.matrix.build import Kind, kinds
from tests.matrix.check import Outcome
from tests.matrix.inputs import write_inputs


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix")
    parser.add_argument("types", nargs="*", metavar="TYPE", help="model_type, or model_type-causal, model_type-masked")
    parser.add_argument("--tsv", type=Path, metavar="FILE", help="write every outcome there")
    options = parser.parse_args()
    wanted = kinds(options.types)
    if not wanted:
        parser.error(f"transformers has no language model of type {', '.join(options.types)}")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.conftest", "tests.matrix.check", *IMPORTS])
    began = time.monotonic()

    def tell(kind: Kind, found: Outcome) -> None:
        if options.types:
            lines = [f"{kind.key}  {kind.name}", *(f"  {column}: {said}" for column, said in sorted(found.items()))]
            print("\n".join(lines), flush=True)
        else:
            print(f"{kind.key}  {_line(found)}", flush=True)

    with tempfile.TemporaryDirectory(prefix="clpds-matrix-") as folder:
        outcomes = runner.run(wanted, write_inputs(Path(folder) / "inputs"), Path(folder), tell)
    print(f"\n{table.totals(outcomes)}\n{time.monotonic() - began:.0f} s")
    if options.tsv:
        options.tsv.write_text(table.tsv(outcomes))
    if not options.types:
        table.PAGE.write_text(table.page(outcomes))
    return 1 if table.wrong(outcomes) else 0


# What DeepSpeed imports when it builds an engine, once for all.
IMPORTS = ("deepspeed.runtime.zero.muon.muon_optimizer",)


def _line(found: Outcome) -> str:
    if "plain" in found:
        return found["plain"][:150]
    bad = [f"{column} {said[:150]}" for column, said in found.items() if not said.startswith("ok")]
    return "; ".join(bad) or found["train"]


if __name__ == "__main__":  # and not where a child of multiprocessing imports this
    sys.exit(main())
