"""Beside tests/test_fuzz.py: bytes for one reader, of which `atheris` makes more where they reach new lines.

    pip install atheris
    python -m tests.fuzz SECONDS READER

Ends with status 0 when the seconds are over, else with the traceback of what is no UserError, and the bytes in a file
``crash-*``. The tests do without: atheris comes as a wheel for Linux and a few versions of Python only.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["clpds", "launcher"]):
    from clpds import manifest, provenance
    from clpds.checkpoint.open import read_weights
    from clpds.checkpoint.safetensors import read_safetensors
    from clpds.data.links import read_links
    from clpds.data.read import stream_documents
    from clpds.errors import UserError
    from clpds.recipe import load_recipe
    from clpds.run_folder import read_metrics, read_state
    from clpds.vocabulary.dictionary import read_dictionary
    from clpds.vocabulary.static import read_static
    from launcher.hostlist import expand
    from launcher.profile import load_profile

# reader -> (name of the file, what reads it)
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "safetensors": ("model.safetensors", read_safetensors),
    "index": ("model.safetensors.index.json", lambda file: read_weights(file.parent)),
    "recipe": ("r.yaml", load_recipe),
    "profile": ("p.yaml", load_profile),
    "hostlist": ("hosts", lambda file: expand(file.read_text(errors="replace"))),
    "dictionary": ("d.txt", read_dictionary),
    "vectors": ("words.vec", read_static),
    "fasttext": ("words.bin", read_static),
    "alignments": ("a.txt", lambda file: list(read_links(file))),
    "jsonl": ("a.jsonl", lambda file: list(stream_documents([file]))),
    "provenance": (provenance.FILE, lambda file: provenance.read(file.parent)),
    "manifest": (manifest.FILE, lambda file: manifest.check_manifest(file.parent, deep=True)),
    "state": ("state.json", lambda file: read_state(file.parent)),
    "metrics": ("metrics.jsonl", lambda file: read_metrics(file.parent)),
}


def main() -> None:
    """Fuzz the reader that the command line names."""
    seconds, reader = sys.argv[1:]
    name, read = READERS[reader]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name

        def one(content: bytes) -> None:
            file.write_bytes(content)
            with suppress(UserError):
                read(file)

        atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", "-rss_limit_mb=4096"], one)
        atheris.Fuzz()


main()
