"""What data preparation is compared with: ``python -m benchmarks.data_peers map|tokenizer JOB.json``.

``map`` is the way of transformers' run_clm script, ``datasets.map`` to tokenise and again to cut into blocks; what it
leaves in its cache is what such a training reads. ``tokenizer`` is the library alone, on all cores, writing nothing.
"""

import json
import sys
from itertools import chain, islice
from pathlib import Path
from typing import Any


def mapped(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the files with the blocks, and how many there are."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"])
    start, end, length = job["start"], job["end"], job["length"]

    def tokenise(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found = tokenizer(rows["text"], add_special_tokens=False)
        ids = [[*start, *one, *end] for one in found["input_ids"]]
        return {"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids]}

    def group(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        joined = {key: list(chain(*values)) for key, values in rows.items()}
        whole = len(joined["input_ids"]) // length * length
        blocks = {key: [values[i : i + length] for i in range(0, whole, length)] for key, values in joined.items()}
        return blocks | {"labels": blocks["input_ids"].copy()}

    text = load_dataset("json", data_files=job["text"], cache_dir=job["out"], split="train")
    options = {"batched": True, "num_proc": job["workers"]}
    tokens = text.map(tokenise, remove_columns=text.column_names, **options)
    blocks = tokens.map(group, **options)
    return {"blocks": len(blocks), "files": [file["filename"] for file in blocks.cache_files]}


def tokenizer_alone(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the number of tokens. ``encode_batch_fast`` is the library's quickest, without offsets."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(job["tokenizer"]) / "tokenizer.json"))
    tokens = 0
    with Path(job["text"]).open(encoding="utf-8") as lines:
        texts = (json.loads(line)["text"] for line in lines)
        while batch := list(islice(texts, 1000)):
            tokens += sum(len(one) for one in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
    return {"tokens": tokens}


if __name__ == "__main__":
    work, file = {"map": mapped, "tokenizer": tokenizer_alone}[sys.argv[1]], Path(sys.argv[2])
    result = work(json.loads(file.read_text(encoding="utf-8")))
    file.with_suffix(".result").write_text(json.dumps(result), encoding="utf-8")
