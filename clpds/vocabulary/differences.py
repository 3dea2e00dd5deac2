"""In what two tokenizers differ: ids, pipelines, and how they cut a text."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

WORDS, A_LINE = 512, 8  # of the vocabulary, in a sample
LINES = (
    "a  b   c\td\n\ne 12,345.67 <s> [CLS]",
    "naïve Äpfel, Ελλάδα; мир. 你好。世界 नमस्ते نمی\u200cشود ខ្មែរ\u200bភាសា \U0001f469\u200d\U0001f467",
)


def of_vocabularies(a: Mapping[str, int], b: Mapping[str, int], name_a: str, name_b: str) -> list[str]:
    """Tokens with other ids, and those that only one of the two has."""
    differences = moved(a, b)
    for name, ours, theirs in ((name_a, a, b), (name_b, b, a)):
        if alone := [token for token in ours if token not in theirs]:
            differences.append(f"{_tokens(len(alone))} no partner in the other, only {name} knows {alone[0]!r}")
    return differences


def moved(a: Mapping[str, int], b: Mapping[str, int]) -> list[str]:
    """Tokens with other ids."""
    found = [token for token in a if token in b and a[token] != b[token]]
    return [f"{_tokens(len(found))} other ids, first {found[0]!r}: {a[found[0]]} and {b[found[0]]}"] if found else []


def of_pipelines(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Parts of ``tokenizer.json`` other than the vocabulary; the model is taken out of both."""
    model_a, model_b = a.pop("model"), b.pop("model")
    parts = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
    parts += [f"model.{key}" for key in sorted(model_a.keys() | model_b.keys()) if model_a.get(key) != model_b.get(key)]
    return [f"same ids, but another {', '.join(parts)} in tokenizer.json"] if parts else []


def of_copies(
    meant: PreTrainedTokenizerBase, found: PreTrainedTokenizerBase, ids: dict[str, int], ids_found: dict[str, int]
) -> list[str]:
    """What keeps ``found`` from standing in for ``meant``: ids that moved or are shared, tokens, roles and cuts lost.

    ``found`` may have more tokens, which it may use.
    """
    differences = moved(ids, ids_found)
    if lost := [token for token in ids if token not in ids_found]:
        differences.append(f"{_tokens(len(lost))} been lost, first {lost[0]!r}")
    shared = {id_: count for id_, count in Counter(ids_found.values()).items() if count > 1}
    before = Counter(ids.values())
    if twice := [id_ for id_, count in shared.items() if count > max(before[id_], 1)]:
        tokens = [token for token, id_ in ids_found.items() if id_ == twice[0]]
        differences.append(f"id {twice[0]} has {len(tokens)} tokens, among them {tokens[0]!r} and {tokens[1]!r}")
    if meant.special_tokens_map != found.special_tokens_map:
        differences.append(f"roles are {found.special_tokens_map} in place of {meant.special_tokens_map}")
    return differences or of_cuts(meant, found, max(ids.values()))


def of_cuts(meant: PreTrainedTokenizerBase, found: PreTrainedTokenizerBase, last: int) -> list[str]:
    """The first line of a sample that the two cut differently; ids beyond ``last`` are new tokens, and no matter."""
    for line in sample(meant):
        ours, theirs = (one.backend_tokenizer.encode(line, add_special_tokens=False).ids for one in (meant, found))
        if ours != theirs and max(theirs, default=-1) <= last:
            return [f"{line!r} has the ids {_first(theirs)} in place of {_first(ours)}"]
    return []


def sample(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Lines of text with white space and scripts that go wrong, words of the vocabulary, and each added token."""
    yield from LINES
    backend = tokenizer.backend_tokenizer
    count = backend.get_vocab_size(with_added_tokens=True)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    some = {backend.decode([id_], skip_special_tokens=True).strip() for id_ in range(0, count, count // WORDS + 1)}
    yield from _lines(sorted(some - added), " ")
    yield from _lines(sorted(added), " b")


def _lines(words: list[str], between: str) -> Iterator[str]:
    for first in range(0, len(words), A_LINE):
        yield between.join(words[first : first + A_LINE])


def _first(ids: list[int]) -> str:
    return f"[{', '.join(map(str, ids[:12]))}{', ...' if len(ids) > 12 else ''}]"


def _tokens(count: int) -> str:
    return f"{count:,} token has" if count == 1 else f"{count:,} tokens have"
