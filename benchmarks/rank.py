"""What a rank of a benchmark runs: ``python -m benchmarks.rank MODULE WORDS...`` under a launcher.

It calls ``benchmarks.MODULE.main(*WORDS)``, and imports that as `clpds train` imports: two ranks start in 15 to 18 s
instead of 19.
"""

import importlib
import sys

from clpds.cli import quick_imports

if __name__ == "__main__":
    with quick_imports():
        module = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    module.main(*sys.argv[2:])
