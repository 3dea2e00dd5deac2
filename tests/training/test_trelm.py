"""TreLM's stages on two ranks under ZeRO-3: against plain torch, and what each of them leaves alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForMaskedLM

from clpds.conversion.convert import convert
from clpds.data.order import Mixture
from clpds.data.pairs import open_pairs
from clpds.data.prepare import prepare
from clpds.data.prepare_pairs import prepare_pairs
from clpds.data.samples import chapters
from clpds.objectives.cdlm import Cdlm
from clpds.objectives.masked import Masked
from clpds.recipe import Convert, Corpus, Data, Init, Pairs, Train, Validation
from clpds.training.schedule import learning_rate
from clpds.transfer.init import init
from clpds.vocabulary.tokenizer import load_tokenizer
from tests.ranks import run_ranks
from tests.tiny import save_model, text, tiny_model, tiny_tokenizer
from tests.training.stages import FP32_ZERO3, curve, read_metrics, refused, run_stage, stage

COMMON = ("*.embeddings.*", "*.trilayer.*", "cls.*")
UPPER, LOWER = "*.encoder.layer.[23].*", "*.encoder.layer.[01].*"
N = 64


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A TRILayer model without dropout, text of two languages, pairs in both directions."""
    folder = tmp_path_factory.mktemp("trelm")
    english = tiny_tokenizer("wordpiece", "en")
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 0}
    save_model(folder / "bert", tiny_model("bert", len(english), num_hidden_layers=4, **calm), english)
    tiny_tokenizer("wordpiece", "de", 700).save_pretrained(folder / "joint")
    init(
        Init(
            method="subpieces", trilayer=True, source=folder / "bert", tokenizer=folder / "joint", out=folder / "model"
        )
    )
    for language in ("en", "de"):
        (folder / f"{language}.txt").write_text("\n".join(part[:300].replace("\n", " ") for part in text(language)))
        prepare(
            Data(
                input=(folder / f"{language}.txt",), tokenizer=folder / "joint", sequence_length=N,
                out=folder / language, validation_fraction=0.0, workers=1,
            )
        )  # fmt: skip
    verses = [
        (e, g)
        for key in list(chapters("en"))[:5]
        for e, g in zip(chapters("en")[key], chapters("de")[key], strict=False)
    ]
    (folder / "verses.tsv").write_text("".join(f"{e}\t{g}\n" for e, g in verses))
    for name, reverse in (("there", False), ("back", True)):
        prepare_pairs(
            Pairs(
                parallel=(folder / "verses.tsv",), tokenizer=folder / "joint", sequence_length=N,
                out=folder / name, reverse=reverse, validation_fraction=0.1,
            )
        )  # fmt: skip
    (folder / "zero3.json").write_text(json.dumps(FP32_ZERO3))
    return {name: folder / name for name in ("bert", "model", "en", "de", "there", "back")} | {
        "data": folder / "there", "deepspeed": folder / "zero3.json"
    }  # fmt: skip


def pair_stage(inputs: dict[str, Path], out: Path, name: str, half: str) -> Train:
    data = {name: Corpus(path=inputs[name])}
    return stage(inputs, out, objective="cdlm", data=data, trainable=(*COMMON, half), steps=4)


def plain_torch(task: Train, half: range) -> tuple[list[float], dict[str, Tensor]]:
    """One process, no DeepSpeed: the losses and the last weights."""
    model = AutoModelForMaskedLM.from_pretrained(task.model, dtype=torch.float32)
    body = model.base_model
    for number, block in enumerate(body.encoder.layer):
        block.requires_grad_(number in half)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": task.optimizer.weight_decay},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=task.optimizer.betas, eps=task.optimizer.eps)
    (corpus,) = task.data.values()
    pairs = open_pairs(corpus.path, "train")
    mixture = Mixture([pairs], [1.0], task.seed)
    objective = Cdlm(Masked.of(load_tokenizer(pairs.tokenizer_folder), 0.15, ""))
    losses = []
    for step in range(task.steps):
        samples = range(step * task.global_batch, (step + 1) * task.global_batch)
        batch = objective.prepare(mixture.batch(samples), samples, task.seed)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(task, step)
        optimizer.zero_grad()
        loss = objective.loss_sum(model, batch) / objective.count(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, task.optimizer.clip)
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: tensor.detach() for name, tensor in model.state_dict().items()}


def weights(run: Path) -> dict[str, Tensor]:
    """Of a model folder, or of a run, which is converted beside itself first."""
    if (run / "checkpoints").is_dir():
        folder = run.with_name(f"{run.name}-converted")
        if not folder.exists():
            convert(Convert(model=run, out=folder))
        run = folder
    return load_file(run / "model.safetensors")


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def parts(names: set[str]) -> set[str]:
    """``layer.3``, ``trilayer``, ``embeddings``, ``cls``."""
    return {
        ".".join(name.split(".")[2:4]) if ".layer." in name else "trilayer" if ".trilayer." in name
        else name.split(".")[1 if name.startswith("bert.") else 0] for name in names
    }  # fmt: skip


def test_a_cross_lingual_stage_on_two_ranks_is_plain_torch(inputs: dict[str, Path], tmp_path: Path) -> None:
    task = replace(pair_stage(inputs, tmp_path / "run", "back", LOWER), validation=Validation(every=4, blocks=5))
    lines = run_ranks(2, run_stage, task)[0]
    losses, model = plain_torch(task, range(2))
    assert curve(lines) == pytest.approx(losses, abs=2e-6)
    found = weights(task.out)
    for name in found:
        torch.testing.assert_close(found[name], model[name], atol=2e-5, rtol=1e-4)
    assert parts(changed(weights(inputs["model"]), found)) == {"embeddings", "trilayer", "cls", "layer.0", "layer.1"}
    last = json.loads((task.out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation"]["back"].keys() == {"loss"}


def test_the_stages_of_the_paper_one_after_the_other(inputs: dict[str, Path], tmp_path: Path) -> None:
    both = {"english": Corpus(path=inputs["en"], language="source"), "german": Corpus(path=inputs["de"])}
    common = stage(inputs, tmp_path / "common", objective="masked", data=both, trainable=COMMON, steps=4)
    common = replace(common, optimizer=replace(common.optimizer, weight_decay=0.0))  # which moves what is not used
    run_ranks(2, run_stage, common)
    first = weights(common.out)
    moved = changed(weights(inputs["model"]), first)
    assert parts(moved) == {"embeddings", "trilayer", "cls"}
    table = "bert.embeddings.language_embeddings.weight"
    old, new = weights(inputs["model"])[table], first[table]
    assert not (old == new).all(dim=1).any()  # of either language

    start = inputs | {"model": tmp_path / "common-converted"}
    above = pair_stage(start, tmp_path / "above", "there", UPPER)
    below = pair_stage(start, tmp_path / "below", "back", LOWER)
    for task, blocks in ((above, {"layer.2", "layer.3"}), (below, {"layer.0", "layer.1"})):
        run_ranks(2, run_stage, task)
        assert parts(changed(first, weights(task.out))) == {"embeddings", "trilayer", "cls"} | blocks

    converted = {name: tmp_path / f"{name}-converted" for name in ("above", "below")}
    init(Init(method="merge", source=converted["above"], lower=converted["below"], out=tmp_path / "merged"))
    assert "    import clpds.models " in (converted["above"] / "README.md").read_text()
    merged = weights(tmp_path / "merged")
    assert parts(changed(merged, weights(above.out))) == {"embeddings", "trilayer", "cls", "layer.0", "layer.1"}
    german = {"german": both["german"]}
    last = stage(start | {"model": tmp_path / "merged"}, tmp_path / "last", objective="masked", data=german, steps=4)
    run_ranks(2, run_stage, last)
    assert parts(changed(merged, weights(last.out))) == {"embeddings", "trilayer", "cls"} | {
        f"layer.{k}" for k in range(4)
    }
    assert all(line["loss"] < 8 for line in read_metrics(last.out))


def test_what_does_not_go_together_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    task = pair_stage(inputs, tmp_path / "run", "there", UPPER)
    for change, message in (
        ({"data": {"german": Corpus(path=inputs["de"])}}, "is no pairs folder; write one with `clpds pairs`"),
        ({"objective": "masked"}, "is no data folder; write one with `clpds data`"),
    ):
        (said,) = run_ranks(1, refused, replace(task, **change))
        assert message in said
