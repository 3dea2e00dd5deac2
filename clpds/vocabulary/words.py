"""Text cut into words, for static word embeddings and bilingual dictionaries: no tokenizer's segmentation."""

from tokenizers import Regex, pre_tokenizers

_WORDS = pre_tokenizers.Split(
    # Marks stay with their letters, or Hindi and Thai fall apart at every vowel sign.
    Regex(r"[\p{L}\p{M}]+|\p{N}+|[^\s\p{L}\p{M}\p{N}]+"),
    behavior="removed",
    invert=True,
)
_WRITTEN = pre_tokenizers.WhitespaceSplit()
Span = tuple[int, int]
"""First character and last + 1."""


def words(text: str) -> list[str]:
    """Runs of letters, of digits and of other signs; ``Gott's`` is ``Gott``, ``'``, ``s``. Case stays."""
    return [word for word, _ in _WORDS.pre_tokenize_str(text)]


def spans(text: str, *, written: bool = False) -> list[Span]:
    """Where the ``words`` of ``text`` stand; with ``written`` those that white space separates instead."""
    cut = _WRITTEN if written else _WORDS
    return [span for _, span in cut.pre_tokenize_str(text)]
