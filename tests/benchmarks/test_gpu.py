"""The GPU benchmark at toy size, in real processes on the CPU: bfloat16 under ZeRO-3 beside float32."""

import json
from pathlib import Path

from benchmarks.gpu import Options, main
from benchmarks.gpu_step import SHAPES


def test_toy(tmp_path: Path) -> None:
    """It measures, counts the model's arithmetic, and finds the CPU's losses; another loss is a failure."""
    options = Options(toy=True, out=tmp_path)
    assert main(options) == 0

    results = {file: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    file = next(file for file, one in results.items() if one["setting"]["deepspeed"] == "zero3_bf16.json")
    (reference,) = (one for other, one in results.items() if other != file)
    result = results[file]
    shape = SHAPES["toy"]
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    matrices = layers * (4 * hidden**2 + 3 * hidden * shape["intermediate_size"]) + shape["vocab_size"] * hidden
    assert result["tokens"] == 2 * 2 * 64
    assert result["flops"] == result["tokens"] * (6 * matrices + 12 * layers * hidden * 64)
    assert len(result["seconds"]) == 2
    assert result["losses"] != reference["losses"][:3]  # another type: not the same computation twice

    result["losses"][1] *= 1.02
    file.write_text(json.dumps(result))  # and what is there is not measured again
    assert main(options) == 1
