"""Passwords and tokens in a batch script: found by the names of variables and by how such values begin."""

import os
import re
from pathlib import Path

MASK = "***"
NAME = re.compile(
    r"(^|_)(TOKEN|KEY|PAT|AUTH|PASS|PASSPHRASE)(_|$)|APIKEY|SECRET|PASSWORD|PASSWD|CREDENTIAL|TOKEN$", re.IGNORECASE
)
PLACE = re.compile(r"_(PATH|FILE|DIR)$", re.IGNORECASE)  # where the secret lies, not what it is
VALUE = re.compile(
    r"\b((hf_|gh[pousr]_|github_pat_|AKIA)\w{16,}|(AIza|glpat-|xox[abprs]-)[\w-]{15,}|sk-([\w-]*-)?\w{20,}|eyJ[\w-]+\.[\w.-]+)"
    r"|(?<=://)[^\s/:@'\"]+:[^\s/@'\"]+(?=@)"
)
ASSIGNMENT = re.compile(r"""(?<![\w.-])([A-Za-z_]\w*)=((?:'[^']*'|"[^"]*"|\\.|[^\s;&|'"])+)""")


def masked(text: str) -> tuple[str, list[str]]:
    """The script without the values that look secret, and the names that they have there, each once.

    A value that the shell is to fetch, ``$(cat token)`` for instance, is none.
    """
    names: dict[str, None] = {}

    def hide(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        by_name = NAME.search(name) and not PLACE.search(name) and not value.strip("'\"").startswith("$")
        if (by_name and value.strip("'\"")) or VALUE.search(value):
            names[name] = None
            return f"{name}={MASK}"
        return found[0]

    text = ASSIGNMENT.sub(hide, text)
    text, others = VALUE.subn(MASK, text)
    if others:
        names["a value in setup, container or an option"] = None
    return text, list(names)


def write_new(file: Path, text: str) -> None:
    """Write a file that is not there yet; nobody else can ever read it where its text looks secret."""
    mode = 0o600 if masked(text)[1] else 0o666
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as stream:
        stream.write(text)
