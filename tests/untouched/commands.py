"""A command for each verb that writes, in the folder of ``tests.bad_inputs.inputs``, and what it reads."""

from typing import NamedTuple


class Command(NamedTuple):
    """The words, with ``{out}`` where the output goes, and the names of its inputs."""

    words: str
    inputs: tuple[str, ...]


FOLDERS = {
    "tokenizer": Command("tokenizer --input de.txt --vocab-size 400 --out {out}", ("de.txt",)),
    "embeddings": Command("embeddings --input de.txt --min-count 1 --epochs 1 --dimension 4 --out {out}", ("de.txt",)),
    "data": Command(
        "data --input de.txt --tokenizer tokenizer --sequence-length 16 --validation-fraction 0.2 --workers 1 "
        "--out {out}",
        ("de.txt", "tokenizer"),
    ),
    "pairs": Command(
        "pairs --parallel en.txt de.txt --tokenizer bert --sequence-length 64 --validation-fraction 0 --out {out}",
        ("en.txt", "de.txt", "bert"),
    ),
    "init": Command(
        "init --method random --source english --tokenizer tokenizer --out {out}", ("english", "tokenizer")
    ),
    "convert": Command("convert sharded {out}", ("sharded",)),
}
FILES = {
    "dictionary": Command("dictionary --parallel en.txt de.txt --out {out}", ("en.txt", "de.txt")),
    "eval": Command("eval model --data de.txt --sequence-length 16 --blocks 2 --out {out}", ("model", "de.txt")),
    "report": Command("report --evals a eval.json --out {out}", ("eval.json",)),
}
