"""Folders of runs, data, evaluations and what was said of them."""

from tests.bad_inputs.row import Row, edit, write

REPORT = "report --out out.png --evals a eval.json"

ROWS = [
    Row("status of no folder", "status gone", "gone is no folder; name the one that the training stage writes"),
    Row("status of no run", "status model", "model is no run: neither training nor clpds submit has written there"),
    Row("state that is no JSON", "status old", "old/state.json cannot be read", (write("old/state.json", "{"),)),
    Row("owner that is no JSON", "status old", "old/job.json cannot be read", (write("old/job.json", "{"),)),
    Row("owner that is a list", "status old", "old/job.json cannot be read", (write("old/job.json", "[1]"),)),
    Row("stage that is no JSON", "status old", "old/stage.json cannot be read", (write("old/stage.json", "{"),)),
    Row("stage without steps", "status old", "old/stage.json cannot be read", (write("old/stage.json", "{}"),)),
    Row(
        "metrics that are no JSON",
        "status old",
        "old/metrics.jsonl cannot be read",
        (write("old/metrics.jsonl", "{x}\n"),),
    ),
    Row(
        "metrics that are numbers",
        "status old",
        "old/metrics.jsonl cannot be read",
        (write("old/metrics.jsonl", '{"loss": 1}\n'),),
    ),
    Row(
        "run without a checkpoint",
        "convert old out",
        "old/checkpoints has no checkpoint yet",
        (write("old/checkpoints/x", ""),),
    ),
    Row(
        "latest that leaves its folder",
        "convert old out",
        "old/checkpoints/latest names '..', which lies outside its folder",
        (write("old/checkpoints/latest", ".."),),
    ),
    Row(
        "latest that names a path",
        "convert old out",
        "old/checkpoints/latest names '../../model', which lies outside its folder",
        (write("old/checkpoints/latest", "../../model"),),
    ),
    Row(
        "run whose trainer says nothing",
        "inspect old",
        "old is damaged: one of its JSON files lacks what clpds writes there",
        (
            write("old/checkpoints/step-00000001/manifest.json", '{"files": {}}'),
            write("old/checkpoints/step-00000001/trainer.json", "{}"),
        ),
    ),
    Row(
        "run whose metrics have a bad line",
        "inspect old",
        "line 1 of old/metrics.jsonl is no line of metrics; mend or remove it",
        (write("old/metrics.jsonl", '{"step": "1"}\n{"step": 2, "loss": 2.0}\n'),),
    ),
    Row("run whose stage is no JSON", "inspect old", "old/stage.json cannot be read", (write("old/stage.json", "{"),)),
    Row("run whose stage says nothing", "inspect old", "old", (write("old/stage.json", "{}"),)),
    Row("folder of nothing known", "inspect nothing", "nothing is no model, training run", (write("nothing/x", "x"),)),
    Row(
        "provenance that is no JSON",
        "inspect data",
        "data/provenance.json is not readable JSON",
        (write("data/provenance.json", "{"),),
    ),
    Row(
        "provenance nested too deeply",
        "inspect data",
        "data/provenance.json is not readable JSON",
        (write("data/provenance.json", "[" * 100_000),),
    ),
    Row("provenance that says nothing", "inspect data", "data", (write("data/provenance.json", '{"verb": "data"}'),)),
    Row(
        "provenance of an unknown verb",
        "inspect model",
        "model",
        (write("model/provenance.json", '{"verb": "x", "files": {}}'),),
    ),
    Row(
        "data that was changed",
        "inspect data",
        "data is damaged: tokenizer/tokenizer_config.json is missing or not what was written",
        (edit("data/tokenizer/tokenizer_config.json", mark=1),),
    ),
    Row(
        "data of another format",
        "eval model --data data",
        "data has format 99",
        (edit("data/provenance.json", format=99),),
    ),
    Row(
        "data whose files are elsewhere",
        "eval model --data data",
        "which lies outside its folder",
        (edit("data/validation/state.json", _data_files=[{"filename": "/etc/passwd"}]),),
    ),
    Row(
        "data whose state is no JSON",
        "eval model --data data",
        "data/validation is damaged",
        (write("data/validation/state.json", "{"),),
    ),
    Row(
        "data without a split",
        "eval model --data data",
        "data has no split 'validation', only train",
        (lambda folder: (folder / "data" / "validation").rename(folder / "data" / "other"),),
    ),
    Row(
        "length for packed data",
        "eval model --data data --sequence-length 8",
        "data is packed already; sequence_length is for raw text",
    ),
    Row(
        "classifier that is none",
        "eval model --data x.jsonl --task",
        "classif",
        (write("x.jsonl", '{"text": "x", "label": "a"}'),),
    ),
    Row(
        "evaluation to write into a file's folder",
        "eval model --data data --blocks 1 --out de.txt/e.json",
        "de.txt/e.json cannot be written",
    ),
    Row(
        "evaluation that is not there",
        "report --out out.png --evals a gone.json",
        "gone.json: No such file or directory",
    ),
    Row(
        "evaluation that is no JSON",
        REPORT,
        "eval.json (a) was not written by `clpds eval --out`",
        (write("eval.json", "{"),),
    ),
    Row(
        "evaluation that is a list",
        REPORT,
        "eval.json (a) was not written by `clpds eval --out`",
        (write("eval.json", "[]"),),
    ),
    Row(
        "evaluation without a loss",
        REPORT,
        "eval.json (a) was not written by `clpds eval --out`",
        (write("eval.json", "{}"),),
    ),
    Row("evaluation that is infinite", REPORT, "eval.json (a)", (edit("eval.json", bits_per_byte=float("inf")),)),
    Row(
        "curve of no run",
        f"{REPORT} --run model",
        "model/metrics.jsonl: No such file or directory; run is the folder of a `clpds train`",
    ),
    Row(
        "curve that is no JSON",
        f"{REPORT} --run old",
        "old/metrics.jsonl holds a line that is not JSON",
        (write("old/metrics.jsonl", "x\n"),),
    ),
    Row("curve of numbers", f"{REPORT} --run old", "old/metrics.jsonl", (write("old/metrics.jsonl", "3\n"),)),
    Row(
        "curve without steps",
        f"{REPORT} --run old",
        "old/metrics.jsonl",
        (write("old/metrics.jsonl", '{"loss": 1}\n'),),
    ),
]
