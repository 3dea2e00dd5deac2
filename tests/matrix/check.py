"""One model through init, train, convert, eval and plan, each compared with the oracle: what a forked process does."""

import gc
import io
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from clpds import recipe
from clpds.cli import Plan
from clpds.conversion.convert import convert
from clpds.data.blocks import open_blocks
from clpds.data.order import Mixture
from clpds.errors import UserError
from clpds.evaluation.evaluate import evaluate
from clpds.objectives.masked import Masked
from clpds.planning.plan import plan
from clpds.training.group import process_group
from clpds.training.loop import train
from clpds.training.stopping import stop_flag
from clpds.transfer.init import init
from clpds.vocabulary.tokenizer import load_tokenizer
from tests.matrix import oracle
from tests.matrix.build import Kind, tiny_model
from tests.matrix.inputs import Inputs
from tests.matrix.oracle import SilentError

COLUMNS = ("init subpieces", "init clp", "train", "eval", "plan")
Outcome = dict[str, str]
"""A column -> ``ok``, ``ok with one document a block``, ``refused: line``,
``TRACEBACK: where`` or ``SILENT: what``."""
ROOT = str(Path(__file__).parents[2])
STEPS = 2


def check(kind: Kind, inputs: Inputs, progress: Path) -> Outcome:
    """All columns of a model, or ``{"plain": why}`` where transformers itself cannot build, run or reload it.

    After each column the outcome so far lies in ``progress``: a process may be killed.
    """
    torch.set_num_threads(1)
    gc.freeze()  # what was there before the fork, which DeepSpeed would look through again and again
    os.environ["COLUMNS"] = "500"  # so that no table wraps
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    with open(f"{progress}.log", "w") as log:  # noqa: PTH123
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    folder = Path(tempfile.mkdtemp(prefix=f"{kind.key}-", dir=progress.parent))
    try:
        return _check(kind, inputs, folder, progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(kind: Kind, inputs: Inputs, folder: Path, progress: Path) -> Outcome:
    source = folder / "source"
    try:
        model = tiny_model(kind)
        model.save_pretrained(source)
        shutil.copytree(inputs.tokenizer, source, dirs_exist_ok=True)
        plain = _plain(kind, model, source)
    except Exception as error:
        plain = f"not built: {_said(error)}"
    if plain:
        return {"plain": plain}
    one = _Model(kind, model, source, inputs, folder)
    found: Outcome = {}
    works: dict[str, Callable[[], str]] = {
        "init subpieces": lambda: one.initialised("subpieces"),
        "init clp": lambda: one.initialised("clp"),
        "eval": one.scored,
        "plan": one.planned,
        "train": one.trained,  # last: DeepSpeed leaves traces in a process
    }
    for column, work in works.items():
        said = _outcome(work).replace(f"{source}", "MODEL").replace(f"{folder}/", "")
        found[column] = said.replace(f"{inputs.data}", "DATA")
        progress.write_text(json.dumps(found))
    return found


def _plain(kind: Kind, model: PreTrainedModel, source: Path) -> str:
    """Why transformers alone does not do with the model what is asked of clpds; empty where it does."""
    if problem := oracle.require_sound(model, causal=False):
        return f"transformers: {problem}"
    try:
        again = oracle.load(source)
    except SilentError as error:
        return f"transformers does not reload it: {error}"
    ids = torch.arange(20, 60)
    with torch.no_grad():
        one, two, reloaded = (oracle.logits(which, ids) for which in (model, model, again))
    if not torch.equal(one, two):
        return "transformers: two passes over a text differ"
    gap = (one - reloaded).abs().max().item()
    return f"transformers does not reload it: logits differ by {gap:.1e}" if gap > 1e-5 else ""


class _Model:
    """A saved model and where its results go."""

    def __init__(self, kind: Kind, model: PreTrainedModel, source: Path, inputs: Inputs, folder: Path) -> None:
        self.source, self.inputs, self.folder = source, inputs, folder
        self.model = oracle.opened(source)
        self.head, self.causal = kind.head, kind.head == "causal"
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.meaningless = ""  # what a loss of this model would be
        if model.config.is_encoder_decoder:
            self.meaningless = "an encoder-decoder"
        elif self.causal:
            self.meaningless = oracle.require_sound(model, causal=True)

    def initialised(self, method: Any) -> str:
        """Under another vocabulary: shared rows are copied, and nothing else changes."""
        out = self.folder / method
        inputs = self.inputs
        given = {"helper": inputs.helpers[self.head]} if method == "clp" else {"tokenizer": inputs.targets[self.head]}
        init(recipe.Init(method=method, source=self.source, out=out, **given))
        oracle.require_rows(self.model, oracle.load(out), self.inputs.pairs)
        return "ok"

    def trained(self) -> str:
        """Two steps under ZeRO-3 on one rank, and the result converted, are plain AdamW."""
        said, stage = "ok", self._stage("run", self.inputs.data)
        with stop_flag() as flag, process_group() as device:
            while True:
                try:
                    train(stage, device, flag)
                    break
                except UserError as error:
                    said, stage = self._other_way(error, stage)
        if self.meaningless:
            raise SilentError(f"trained: {self.meaningless}")
        lines = [json.loads(line) for line in (stage.out / "metrics.jsonl").read_text().splitlines()]
        found = [(line["loss"], line["grad_norm"]) for line in lines if "loss" in line]
        wanted = oracle.train(trained := oracle.opened(self.source), self._batches(stage), causal=self.causal)
        for number, ((loss, norm), (right, right_norm)) in enumerate(zip(found, wanted, strict=True), 1):
            if abs(loss - right) > 1e-5 * max(1, right) or abs(norm - right_norm) > 2e-4 * right_norm:
                off = abs(norm / right_norm - 1)
                raise SilentError(f"step {number}: loss off by {abs(loss - right):.1e}, gradient norm by {off:.1e}")
        with redirect_stdout(io.StringIO()):
            convert(recipe.Convert(model=stage.out, out=self.folder / "converted", verify=True))
        oracle.require_weights(oracle.load(self.folder / "converted"), trained)
        return said

    def _other_way(self, refusal: UserError, stage: recipe.Train) -> tuple[str, recipe.Train]:
        """How the refusal of ``stage`` says that it works; the refusal itself where it says nothing new."""
        said = "ok with one document a block"
        if "--one-document" in str(refusal) and stage.data["text"].path != self.inputs.alone:
            return said, self._stage("run-alone", self.inputs.alone)
        if "micro_batch: 1" in str(refusal) and stage.micro_batch > 1:
            return said, replace(stage, micro_batch=1)
        raise refusal

    def _stage(self, name: str, data: Path) -> recipe.Train:
        blocks = len(open_blocks(data, "train"))
        return recipe.Train(
            model=self.source, data={"text": recipe.Corpus(path=data)}, out=self.folder / name,
            objective="causal" if self.causal else "masked", deepspeed=self.inputs.deepspeed,
            steps=STEPS, micro_batch=blocks // 2 if blocks % 2 == 0 else blocks, global_batch=blocks,
            optimizer=recipe.Optimizer(
                lr=oracle.LR, betas=oracle.BETAS, eps=oracle.EPS, weight_decay=oracle.DECAY, clip=oracle.CLIP
            ),
            schedule=recipe.Schedule(min_lr_ratio=1.0),
        )  # fmt: skip

    def _batches(self, stage: recipe.Train) -> list[list[oracle.Document]]:
        """Each step sees all blocks, so that their order does not matter; which tokens are hidden is the product's."""
        data = stage.data["text"].path
        if self.causal:
            return [oracle.documents(data, "train")] * STEPS
        mixture = Mixture([open_blocks(data, "train")], [1.0], stage.seed)
        steps = [range(step * stage.global_batch, (step + 1) * stage.global_batch) for step in range(STEPS)]
        return [self._hidden(mixture.batch(samples), samples, stage.seed, stage.mask_share) for samples in steps]

    def _hidden(self, batch: Any, samples: range, seed: int, share: float) -> list[oracle.Document]:
        masked = Masked.of(load_tokenizer(self.inputs.tokenizer), share, "")
        return list(oracle.alone(*masked.prepare(batch, samples, seed)[:3]))

    def scored(self) -> str:
        """Loss and bits per byte are those of each document by itself."""
        out = self.folder / "eval.json"
        with redirect_stdout(io.StringIO()):
            evaluate(recipe.Eval(model=self.source, data=self.inputs.data, out=out))
        found = json.loads(out.read_text())
        if self.meaningless:
            raise SilentError(f"scored: {self.meaningless}")
        if self.causal:
            texts = oracle.documents(self.inputs.data, "validation")
        else:
            blocks = open_blocks(self.inputs.data, "validation")
            samples = range(len(blocks))
            texts = self._hidden(blocks.batch(samples), samples, 0, recipe.Train.mask_share)
        nats, tokens = oracle.score(self.model, texts, causal=self.causal)
        if tokens != found["tokens"]:
            raise SilentError(f"{found['tokens']} tokens predicted instead of {tokens}")
        if abs(found["loss"] - nats / tokens) > 1e-5:
            raise SilentError(f"loss {found['loss']:.6f} instead of {nats / tokens:.6f}")
        bits = nats / oracle.NATS_A_BIT / self._bytes(texts) if self.causal else None
        if bits is not None and abs(found["bits_per_byte"] - bits) > 1e-5:
            raise SilentError(f"{found['bits_per_byte']:.6f} bits per byte instead of {bits:.6f}")
        return "ok"

    def _bytes(self, texts: list[oracle.Document]) -> int:
        """Of the predicted tokens: the alphabet of byte-level BPE spells each byte as a character."""
        document = json.loads((self.inputs.tokenizer / "tokenizer.json").read_text())
        special = {token["id"] for token in document["added_tokens"]}
        length = {id_: 0 if id_ in special else len(token) for token, id_ in document["model"]["vocab"].items()}
        return sum(length[id_] for _, labels in texts for id_ in labels.tolist() if id_ != -100)

    def planned(self) -> str:
        """The parameters on the screen are those of the model."""
        file = self.folder / "recipe.yaml"
        step = {
            "verb": "train", "model": str(self.source), "data": {"text": {"path": str(self.inputs.data)}},
            "out": str(self.folder / "planned"), "steps": STEPS, "micro_batch": 2, "global_batch": 8,
            "objective": "causal" if self.causal else "masked",
        }  # fmt: skip
        file.write_text(json.dumps({"steps": {"train": step}}))  # YAML too
        with redirect_stdout(io.StringIO()) as screen:
            plan(Plan(recipe=file, gpu="A100-80GB", gpus_per_node=4))
        said = re.search(r"([\d,]+) parameters", screen.getvalue())
        count = int(said[1].replace(",", "")) if said else 0
        if count != self.parameters:
            raise SilentError(f"{count:,} parameters instead of {self.parameters:,}")
        return "ok"


def _outcome(work: Callable[[], str]) -> str:
    try:
        return work()
    except SilentError as error:
        return f"SILENT: {error}"
    except UserError as error:
        line = str(error)
        if "\n" in line or len(line) > 500:
            return f"SILENT: a refusal of {len(line)} characters, {line.count(chr(10)) + 1} lines: {line[:80]}"
        return f"refused: {line}"
    except Exception as error:
        traceback.print_exc()
        return f"TRACEBACK: {_said(error)}"
    finally:
        sys.stdout.flush()


def _said(error: BaseException) -> str:
    """The error in a line, with the last place in clpds."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(ROOT)]
    ours = [frame for frame in frames if "/tests/" not in frame.filename]
    where = f" [{ours[-1].filename.removeprefix(ROOT + '/')}:{ours[-1].lineno}]" if ours else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{where}"
