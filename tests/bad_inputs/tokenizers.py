"""Tokenizers that cannot be opened, or are not the model's."""

import json
from pathlib import Path

from tests.bad_inputs.row import Row, edit, remove, write
from tests.tiny import tiny_model

DATA = "data --sequence-length 16 --workers 1 --out out --input de.txt --tokenizer"


def shrink(folder: Path) -> None:
    """Put a smaller model under the tokenizer."""
    tiny_model("llama", 300).save_pretrained(folder / "model")


def same_ids(folder: Path) -> None:
    """Give every token one id."""
    file = folder / "tokenizer" / "tokenizer.json"
    document = json.loads(file.read_text())
    document["model"]["vocab"] = dict.fromkeys(document["model"]["vocab"], 3)
    document["added_tokens"] = []
    file.write_text(json.dumps(document))


ROWS = [
    Row("tokenizer that is not there", f"{DATA} gone", "gone does not exist; expected a folder with tokenizer files"),
    Row("folder without a tokenizer", f"{DATA} sharded", "sharded has no tokenizer; expected tokenizer.json"),
    Row(
        "tokenizer whose ids are all equal",
        "init --source english --tokenizer tokenizer --method mean --out out",
        "tokens have the same id",
        (same_ids,),
    ),
    Row(
        "tokenizer that is no JSON",
        f"{DATA} tokenizer",
        "tokenizer holds a tokenizer that transformers cannot open",
        (write("tokenizer/tokenizer.json", "{"),),
    ),
    Row(
        "tokenizer nested too deeply",
        f"{DATA} tokenizer",
        "tokenizer holds a tokenizer that transformers cannot open",
        (write("tokenizer/tokenizer.json", "[" * 100_000),),
    ),
    Row(
        "tokenizer that wants its own code run",
        f"{DATA} tokenizer",
        "tokenizer holds a tokenizer that transformers cannot open",
        (
            edit(
                "tokenizer/tokenizer_config.json",
                tokenizer_class="Mine",
                auto_map={"AutoTokenizer": ["mine.Mine", None]},
            ),
            write("tokenizer/mine.py", "open('mark', 'w')"),
            remove("tokenizer/tokenizer.json"),
            write("tokenizer/vocab.txt", "a\n"),
        ),
    ),
    Row(
        "tokenizer without an end of text",
        f"{DATA} tokenizer",
        "tokenizer has no token that ends a text; name one as eos_token in its tokenizer_config.json",
        (edit("tokenizer/tokenizer_config.json", eos_token=None),),
    ),
    Row(
        "pairs for a tokenizer without ends",
        "pairs --tokenizer tokenizer --sequence-length 16 --out out --parallel de.txt de.txt",
        "the tokenizer of tokenizer lacks a token that opens or closes a sentence",
        (edit("tokenizer/tokenizer_config.json", eos_token=None),),
    ),
    Row("model with another tokenizer", "eval english --data data", "have different tokenizers"),
    Row(
        "helper with another tokenizer",
        "init --source model --helper english --tokenizer tokenizer --out out",
        "have different tokenizers",
    ),
    Row(
        "helper without a tokenizer",
        "init --source model --helper sharded --out out",
        "sharded has no tokenizer; save the model's tokenizer in its folder",
    ),
    Row(
        "source without a tokenizer",
        "init --source sharded --tokenizer tokenizer --method mean --out out",
        "sharded has no tokenizer",
    ),
    Row(
        "tokenizer larger than its model",
        "init --source model --tokenizer english --method mean --out out",
        "the two do not belong together",
        (shrink,),
    ),
    Row(
        "no target tokenizer",
        "init --source model --method mean --out out",
        "the target tokenizer is missing; pass --tokenizer",
    ),
    Row(
        "nearest tokens without a source",
        "inspect model --token Gott",
        "model was not made by `clpds init`; name the model to look in with --source",
    ),
    Row(
        "nearest tokens of a model without a tokenizer",
        "inspect sharded --token Gott --source model",
        "sharded has no tokenizer; copy its files there",
    ),
]
