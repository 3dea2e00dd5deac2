"""Stages whose model, data and DeepSpeed file do not fit each other: found when the ranks have started."""

import json
from typing import Any

from tests.bad_inputs.row import Change, Row, write

TRAIN = "train r.yaml"


def deepspeed(**keys: Any) -> Change:
    """Write a DeepSpeed file, good but for these keys."""
    return write("ds.json", json.dumps({"zero_optimization": {"stage": 3}} | keys))


OURS = f"{TRAIN} deepspeed=ds.json"
ROWS = [
    Row("data that is not there", f"{TRAIN} data.de.path=gone", "gone does not exist; write it with `clpds data`"),
    Row("data that is a model", f"{TRAIN} data.de.path=model", "model is no data folder; write one with `clpds data`"),
    Row("data of another tokenizer", f"{TRAIN} model=english", "have different tokenizers"),
    Row("config of fresh weights that is none", f"{TRAIN} model=eval.json", "eval.json is no model config"),
    Row(
        "DeepSpeed file that is not there",
        f"{TRAIN} deepspeed=gone.json",
        "gone.json does not exist, and ds_configs/ has no file",
    ),
    Row("DeepSpeed file that is no JSON", OURS, "ds.json is not valid JSON", (write("ds.json", "{"),)),
    Row("DeepSpeed file that is a list", OURS, "ds.json is no DeepSpeed configuration", (write("ds.json", "[]"),)),
    Row(
        "DeepSpeed file with a number for a section",
        OURS,
        "ds.json is no DeepSpeed configuration",
        (deepspeed(zero_optimization=3),),
    ),
    Row(
        "DeepSpeed file of another batch",
        OURS,
        "ds.json: train_batch_size is 64, but global_batch of the recipe is 4; remove the key",
        (deepspeed(train_batch_size=64),),
    ),
    Row(
        "DeepSpeed file with an optimizer",
        OURS,
        "ds.json: 'optimizer' is decided by the recipe's section",
        (deepspeed(optimizer={}),),
    ),
    Row(
        "DeepSpeed file of stage 7",
        OURS,
        "ds.json: zero_optimization.stage is 7; give 1, 2 or 3",
        (deepspeed(zero_optimization={"stage": 7}),),
    ),
    Row(
        "reproduce at a size without recipe",
        "reproduce growth --size full",
        "--size full has no recipe for growth; it has some for clp and wechsel",
    ),
    Row("reproduce in a file", "reproduce clp --size toy --out de.txt", "de.txt is a file or a link"),
]
IN_A_PROCESS = [
    Row(
        "preflight in a file",
        "preflight --folder de.txt",
        "de.txt cannot be written: File exists; name a folder that all ranks share",
    ),
]
