"""What all models of the matrix share: two tokenizers, a helper, packed blocks of ragged documents."""

import io
import json
import random
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from clpds.data.prepare import prepare
from clpds.recipe import Data
from tests.tiny import save_model, text, tiny_model

ROWS = 389  # of a source's table: a prime, which is no other size of a model, and more than its tokenizer needs
TOKENS, TARGET_TOKENS = 360, 347
LENGTH = 96  # of a block
ROLES = {
    "bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>",
    "cls_token": "<s>", "sep_token": "</s>",
}  # fmt: skip
SPELLINGS = list(dict.fromkeys(ROLES.values()))
SPECIAL = {f"{role.removesuffix('_token')}_token_id": SPELLINGS.index(spelling) for role, spelling in ROLES.items()}
LENGTHS = (7, 160, 31, 250, 12, 90, 64, 3, 330, 45, 120, 21)  # characters of documents, over and over


@dataclass(frozen=True)
class Inputs:
    """Folders."""

    tokenizer: Path
    targets: dict[str, Path]
    """Of a head; that of causal models fills no role of encoders, which some configs insist on."""
    helpers: dict[str, Path]
    data: Path
    alone: Path
    """The same documents, one a block."""
    deepspeed: Path

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(id in the target, id in the source) of every token that is spelled alike in both."""
        source, target = (
            json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
            for folder in (self.tokenizer, self.targets["causal"])
        )
        return sorted((id_, source[token]) for token, id_ in target.items() if token in source)


def write_inputs(folder: Path) -> Inputs:
    """All of it under ``folder``, seconds of work."""
    _tokenizer("en", TOKENS).save_pretrained(folder / "source")
    german, helper = _tokenizer("de", TARGET_TOKENS), tiny_model("llama", TARGET_TOKENS, tied=False)
    few = {role: spelling for role, spelling in ROLES.items() if role in ("bos_token", "eos_token", "pad_token")}
    for head, roles in {"causal": few, "masked": ROLES}.items():
        target = _shuffled(german, roles)
        target.save_pretrained(folder / "target" / head)
        save_model(folder / "helper" / head, helper, target)
    documents = folder / "documents.jsonl"
    chapters = text("en", 20)
    documents.write_text(
        "".join(json.dumps({"text": part[: LENGTHS[n % len(LENGTHS)]]}) + "\n" for n, part in enumerate(chapters))
    )
    packed = Data(
        input=(documents,), tokenizer=folder / "source", sequence_length=LENGTH, out=folder / "data",
        validation_fraction=0.4, workers=1,
    )  # fmt: skip
    alone = replace(packed, one_document=True, out=folder / "alone")
    with redirect_stdout(io.StringIO()):
        prepare(packed)
        prepare(alone)
    # As users have it, but in float32: ZeRO-3, with small tensors sliced too.
    zero = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
    (folder / "zero3.json").write_text(json.dumps(zero))
    heads = ("causal", "masked")
    return Inputs(
        tokenizer=folder / "source",
        targets={head: folder / "target" / head for head in heads},
        helpers={head: folder / "helper" / head for head in heads},
        data=packed.out,
        alone=alone.out,
        deepspeed=folder / "zero3.json",
    )


def _tokenizer(language: str, count: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, which spells every byte as a character."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=count, special_tokens=SPELLINGS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(text(language), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **ROLES)


def _shuffled(tokenizer: PreTrainedTokenizerFast, roles: dict[str, str]) -> PreTrainedTokenizerFast:
    """The same tokens in another order, the special ones elsewhere."""
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    order = list(range(len(document["model"]["vocab"])))
    random.Random(0).shuffle(order)
    other = order.index(9)  # padding moves, and not far: models that count positions from it have room for it
    order[other], order[SPECIAL["pad_token_id"]] = order[SPECIAL["pad_token_id"]], order[other]
    document["model"]["vocab"] = {token: order[id_] for token, id_ in document["model"]["vocab"].items()}
    for token in document["added_tokens"]:
        token["id"] = order[token["id"]]
    document["added_tokens"].sort(key=lambda token: token["id"])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(document)), **roles)
