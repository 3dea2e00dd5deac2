"""Open a tokenizer, count the embedding rows it needs, and tell whether two are the same."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from clpds.bounds import SETTINGS
from clpds.errors import UserError
from clpds.inside import read_json
from clpds.output import write_text
from clpds.refusals import require_given
from clpds.tokenizer_files import copy_tokenizer, has_tokenizer, require_small_files
from clpds.vocabulary import differences
from clpds.vocabulary.converted import require_cuts_of_sentencepiece
from clpds.vocabulary.panics import no_panic


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of ``folder`` (a tokenizer's or a model's), backed by the library tokenizers.

    Where there is a ``tokenizer.json`` it is taken as it stands: the classes of transformers 5 build
    some pipelines anew from its vocabulary, for instance Qwen2's whatever the file says. Truncation, padding and
    BPE dropout are off. Raises UserError where there is none, it cannot be read, or transformers cannot convert it
    so that it cuts texts as SentencePiece does.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; expected a folder with tokenizer files")
    if not has_tokenizer(folder):
        raise UserError(f"{folder} has no tokenizer; expected tokenizer.json or the vocabulary that it is made from")
    require_small_files(folder)
    tokenizer = fit_for_work(_open(folder))
    if not tokenizer.is_fast:
        raise UserError(
            f"{folder} holds a {type(tokenizer).__name__}, which transformers cannot convert to a fast tokenizer; "
            "save it with a tokenizer.json"
        )
    ids = token_ids(tokenizer).values()
    if len(ids) > 1 and len(set(ids)) == 1:  # single ids may stand twice, for an added token's second spelling
        raise UserError(f"{folder}: all {len(ids):,} tokens have the same id; fetch the tokenizer again")
    if not (folder / "tokenizer.json").is_file():
        require_cuts_of_sentencepiece(tokenizer.backend_tokenizer, folder)
    return tokenizer


def _open(folder: Path) -> PreTrainedTokenizerBase:
    file = folder / "tokenizer.json"
    try:
        with no_panic(folder):
            try:
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            except Exception:  # a class that does not understand its own older files
                if not file.is_file():
                    raise
                return PreTrainedTokenizerFast.from_pretrained(folder)
            if file.is_file() and type(tokenizer) is not PreTrainedTokenizerFast:
                known = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
                # Old folders leave their special tokens to the class, which may also name some of its own.
                roles = {role: token for role, token in tokenizer.special_tokens_map.items() if token in known}
                tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **roles)
    except UserError:
        raise
    except Exception as error:  # the library tokenizers raises Exception itself
        require_given(folder, error)
        raise UserError(
            f"{folder} holds a tokenizer that transformers cannot open: {' '.join(str(error).split())}"
        ) from error
    return tokenizer


def fit_for_work(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same tokenizer, which cuts all of a text and always alike.

    A ``tokenizer.json`` may tell it to cut texts off, to fill them up, or to leave out merges by chance (BPE dropout).
    """
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        if getattr(tokenizer.backend_tokenizer.model, "dropout", None) is not None:
            tokenizer.backend_tokenizer.model.dropout = None
    return tokenizer


def token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Spelling to id of every token, added ones included, by ascending id."""
    vocabulary: dict[str, int] = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    return dict(sorted(vocabulary.items(), key=lambda item: item[1]))


def rows_needed(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows an embedding needs: the largest id + 1, which is more than the tokens where ids have holes."""
    return max(token_ids(tokenizer).values()) + 1


def ends_of(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int], int]:
    """The ids put before a document and behind it (one or none each), and the id that fills up a block."""
    start = _first_of(tokenizer.bos_token_id, tokenizer.cls_token_id)
    end = _first_of(tokenizer.eos_token_id, tokenizer.sep_token_id)
    return start, end, _first_of(tokenizer.pad_token_id, *end, 0)[0]


def _first_of(*ids: int | None) -> list[int]:
    return [id for id in ids if id is not None][:1]


def backend(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The pipeline as ``tokenizer.json`` describes it, without padding and truncation, which calls change."""
    pipeline: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in pipeline.items() if key not in ("padding", "truncation", "version")}


def require_same(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase, name_a: str, name_b: str) -> None:
    """Raise UserError that says in what the two differ, unless they give every text the same ids."""
    found = differences.of_vocabularies(token_ids(a), token_ids(b), name_a, name_b)
    found = found or differences.of_pipelines(backend(a), backend(b))
    if found:
        raise UserError(f"{name_a} and {name_b} have different tokenizers: {'; '.join(found)}")


def save_copy(source: Path, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Make ``folder`` with ``tokenizer``'s files from ``source``, or with new ones if these do not say all.

    Raises UserError where neither opens as ``tokenizer``.
    """
    folder.mkdir()
    copy_tokenizer(source, folder)
    try:
        if (folder / "tokenizer.json").is_file():
            require_same(tokenizer, load_tokenizer(folder), str(source), str(folder))
            check_written(tokenizer, folder, str(source))
            return
    except UserError:  # a model's config.json said what the files alone do not
        pass
    save(tokenizer, folder)


def save(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """``save_pretrained``, opened again and compared; the class is one that transformers 4 and 5 know.

    Raises OSError for what the system refuses, which the library tokenizers calls Exception, and UserError where what
    was written opens as another tokenizer.
    """
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if not (match := re.search(r"\(os error (\d+)\)", str(error))):
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1])), str(folder)) from error
    declare_class(folder / "tokenizer_config.json")
    check_written(tokenizer, folder, "the tokenizer")


def check_written(tokenizer: PreTrainedTokenizerBase, folder: Path, name: str, *, extended: bool = False) -> None:
    """Open what was written to ``folder``: all tokens at their ids, none shared, the same roles, the same cuts.

    Raises UserError that begins with ``name`` where it is not so. Only ``extended`` may have more tokens.
    """
    again = load_tokenizer(folder)
    ids, ids_again = token_ids(tokenizer), token_ids(again)
    found = differences.of_copies(tokenizer, again, ids, ids_again)
    if not extended and len(ids_again) > len(ids):
        found.append(f"{len(ids_again) - len(ids):,} tokens are new")
    if found:
        raise UserError(f"{name} cannot be written so that it opens as it was: {'; '.join(found)}"[:500])


def misread(folder: Path) -> str | None:
    """In what AutoTokenizer's reading of ``folder`` differs from its tokenizer.json, or None.

    transformers 5 gives some model types (Qwen2 among them) the pipeline of their own tokenizer class,
    whatever the folder's files say; texts then get wrong ids without an error.
    """
    ours = load_tokenizer(folder)
    try:
        theirs = fit_for_work(AutoTokenizer.from_pretrained(folder))
    except Exception as error:  # what load_tokenizer does not mind
        return f"it fails: {' '.join(str(error).split())[:200]}"
    found = differences.of_vocabularies(token_ids(ours), token_ids(theirs), "tokenizer.json", "AutoTokenizer")
    return "; ".join(found or differences.of_pipelines(backend(ours), backend(theirs))) or None


def declare_class(config: Path, roles: Mapping[str, str] | None = None) -> None:
    """Name the class in ``tokenizer_config.json`` as transformers 4 and 5 both know it; 5 writes one that 4 refuses.

    ``roles`` that the file leaves to another class are written down.
    """
    document = read_json(config, SETTINGS) if config.is_file() else {}
    document = {**(roles or {}), **document, "tokenizer_class": "PreTrainedTokenizerFast"}
    write_text(config, json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
