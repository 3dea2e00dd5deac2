"""Put tokens of another tokenizer behind a tokenizer's own, so that they are formed and little else changes.

What "formed" takes depends on the model in ``tokenizer.json``:

- BPE: merges behind the tokenizer's own, which therefore all run first. A new token is made of the tokens that
  the tokenizer makes of its text; whole words need no merges (``ignore_merges``).
- Unigram: a score a hair above that of the tokens that the text had so far.
- WordPiece: the token alone; it matches the longest it has, so that words which begin with a new token change.

The source's added tokens go into the model's vocabulary too: the library tokenizers keeps the ids of those alone, and
counts the others on from the vocabulary's size, which the new tokens have made larger.

With the first two models, putting the old tokens back in place of the new ones gives the old cut of any text
whose letters the tokenizer knew.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from clpds.errors import UserError
from clpds.tokenizer_files import tokenizer_files
from clpds.vocabulary.pieces import Piece, pieces, respelling
from clpds.vocabulary.tokenizer import backend, check_written, declare_class, rows_needed, token_ids

SLOW_FILES = ("vocab.json", "merges.txt", "vocab.txt", "*.model")  # the vocabulary once more, without the new tokens
GAIN = 1e-4  # score for each token that a new one saves: less than any two cuts of a text differ by

Pipeline = dict[str, Any]  # tokenizer.json


@dataclass(frozen=True)
class Candidate:
    """A token to add."""

    spelling: str
    """In the alphabet of the tokenizer that gets it."""
    is_word: bool
    """Whether a word that the tokenizer splits off the text before its model sees it can be just this."""


@dataclass(frozen=True)
class Extension:
    """A tokenizer with more tokens."""

    pipeline: Pipeline
    first: int
    """Id of the first new token."""
    added: list[int]
    """The new tokens' ids in the tokenizer they come from; that of ``added[i]`` is ``first + i`` now."""
    left_out: int
    """Tokens that would never be formed."""


def extend(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase, ids: Iterable[int]) -> Extension:
    """``source`` with the tokens ``ids`` of ``target`` behind its own; special tokens among them are passed over.

    Raises UserError for a model that is neither BPE nor unigram nor WordPiece.
    """
    pipeline, known = backend(source), pieces(target)
    kind = pipeline["model"]["type"]
    if kind not in FORM:
        raise UserError(f"tokenizers of type {kind} cannot be extended; leave out --extend")
    respell, taken = respelling(source), token_ids(source)
    wanted = {id_: known[id_] for id_ in ids if id_ in known}
    candidates: dict[int, Candidate] = {}
    for id_, piece in wanted.items():
        found = _candidate(source, piece, respell(piece))
        if found and found.spelling not in taken:
            candidates[id_] = found
            taken[found.spelling] = id_
    first = rows_needed(source)
    _hold_added_tokens(pipeline)
    added = sorted(FORM[kind](pipeline, candidates, first))
    return Extension(pipeline, first, added, len(wanted) - len(added))


def save_extended(extension: Extension, tokenizer: PreTrainedTokenizerBase, source: Path, folder: Path) -> None:
    """Write ``tokenizer``'s files from ``source`` into ``folder`` with the vocabulary of ``extension``.

    Raises UserError where what was written opens with another id, role or cut of the old tokens.
    """
    for file in tokenizer_files(source):
        if not any(fnmatchcase(file.name, pattern) for pattern in SLOW_FILES):
            shutil.copyfile(file, folder / file.name)
    text = json.dumps(extension.pipeline, ensure_ascii=False, indent=2)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    declare_class(folder / "tokenizer_config.json", tokenizer.special_tokens_map)
    check_written(tokenizer, folder, f"the tokenizer of {source} with new tokens", extended=True)


def _hold_added_tokens(pipeline: Pipeline) -> None:
    """Put the added tokens that lie behind the model's vocabulary into it, and fill a list's holes with names."""
    model = pipeline["model"]
    added = {token["id"]: token["content"] for token in pipeline["added_tokens"]}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {content: id_ for id_, content in added.items()} | model["vocab"]
        return
    lowest = min(score for _, score in model["vocab"])  # of a unigram model, in which a token's place is its id
    beyond = range(len(model["vocab"]), max(added, default=-1) + 1)
    model["vocab"] += [[added.get(id_, f"<unused {id_}>"), lowest] for id_ in beyond]


def _candidate(tokenizer: PreTrainedTokenizerBase, piece: Piece, spelling: str | None) -> Candidate | None:
    """None for what the tokenizer cannot spell, or splits before its model sees it."""
    if spelling is None:
        return None
    try:
        text = piece.bytes.decode()
    except UnicodeDecodeError:
        return Candidate(spelling, is_word=False)  # a part of a character; only the model looks into characters
    splits = tokenizer.backend_tokenizer
    begins = text.startswith(" ")
    text = f"a{text}" if begins else text  # a space is a word's first character behind another word only
    text = splits.normalizer.normalize_str(text) if splits.normalizer else text
    words = [word for word, _ in splits.pre_tokenizer.pre_tokenize_str(text)] if splits.pre_tokenizer else [text]
    if any(spelling.removeprefix("##") in word for word in words):
        return Candidate(spelling, is_word=begins and spelling in words)
    return None


def _bpe(pipeline: Pipeline, candidates: Mapping[int, Candidate], first: int) -> Iterable[int]:
    """Letters, then in passes each token that two tokens so far make, then the words that are left."""
    model = pipeline["model"]
    letters = [id_ for id_, candidate in candidates.items() if len(candidate.spelling) == 1]
    cut = _with_letters(pipeline, [[candidates[id_].spelling, first + n] for n, id_ in enumerate(letters)])
    parts = {
        id_: [part.value for part in cut(one.spelling)] for id_, one in candidates.items() if len(one.spelling) > 1
    }
    pending = [id_ for id_, found in parts.items() if "".join(found) == candidates[id_].spelling]
    ranks: dict[tuple[str, str], int] = {}
    formed = list(letters)
    while True:
        rest = []
        for id_ in pending:
            found = _merged(parts[id_], ranks)
            if len(found) == 2:
                ranks[found[0], found[1]] = len(ranks)
                formed.append(id_)
            else:
                rest.append(id_)
        if len(rest) == len(pending):
            break
        pending = rest
    words = [id_ for id_ in pending if candidates[id_].is_word]
    model["ignore_merges"] = model.get("ignore_merges", False) or bool(words)
    model["merges"] += [list(pair) for pair in ranks]
    formed = sorted(formed + words)
    model["vocab"] |= {candidates[id_].spelling: first + n for n, id_ in enumerate(formed)}
    return formed


def _merged(parts: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """``parts`` with every pair in ``ranks`` joined, the lowest rank first."""
    parts = list(parts)
    while pairs := [(ranks[pair], n) for n, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]:
        _, n = min(pairs)
        parts[n : n + 2] = [parts[n] + parts[n + 1]]
    return parts


def _unigram(pipeline: Pipeline, candidates: Mapping[int, Candidate], first: int) -> Iterable[int]:
    """Letters with the lowest score there is, all others with their parts' sum and GAIN for each part saved."""
    vocabulary = pipeline["model"]["vocab"]
    lowest = min(score for _, score in vocabulary)
    letters = {id_ for id_, candidate in candidates.items() if len(candidate.spelling) == 1}
    cut = _with_letters(pipeline, [[candidates[id_].spelling, lowest] for id_ in sorted(letters)])
    scores = dict(vocabulary)
    unknown = pipeline["model"]["unk_id"]
    formed = {}
    for id_, candidate in candidates.items():
        parts = [] if id_ in letters else cut(candidate.spelling)
        if all(part.id != unknown for part in parts):
            known = [scores.get(part.value, lowest) for part in parts]
            formed[id_] = sum(known) + GAIN * (len(parts) - 1) if parts else lowest
    vocabulary += [[candidates[id_].spelling, formed[id_]] for id_ in sorted(formed)]
    return formed


def _with_letters(pipeline: Pipeline, letters: list[list[Any]]) -> Callable[[str], list[Any]]:
    """How the model of ``pipeline`` cuts a word when it has these more entries in its vocabulary."""
    model = pipeline["model"]
    vocabulary = model["vocab"] | dict(letters) if isinstance(model["vocab"], dict) else model["vocab"] + letters
    tokenizer = Tokenizer.from_str(json.dumps({**pipeline, "model": {**model, "vocab": vocabulary}}))
    return tokenizer.model.tokenize


def _wordpiece(pipeline: Pipeline, candidates: Mapping[int, Candidate], first: int) -> Iterable[int]:
    pipeline["model"]["vocab"] |= {candidates[id_].spelling: first + n for n, id_ in enumerate(sorted(candidates))}
    return candidates


FORM: dict[str, Callable[[Pipeline, Mapping[int, Candidate], int], Iterable[int]]] = {
    "BPE": _bpe,
    "Unigram": _unigram,
    "WordPiece": _wordpiece,
}
