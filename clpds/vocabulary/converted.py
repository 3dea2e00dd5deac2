"""A SentencePiece model that transformers has converted, held against SentencePiece itself."""

from collections.abc import Iterator
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer

from clpds.errors import UserError

WORDS, A_LINE = 1024, 8  # of the vocabulary, in a sample
LINES = ("two  spaces", "four    spaces   three", "12,345.67 (8)", "Don't stop!")
SPACE = "▁"


def require_cuts_of_sentencepiece(tokenizer: Tokenizer, folder: Path) -> None:
    """Raise UserError where ``tokenizer``, made of the ``*.model`` in ``folder``, cuts a sample otherwise than that.

    The conversion ranks some merges by id, which the model has a score for (Mistral's runs of spaces). A file that
    SentencePiece does not open, such as tiktoken's, is passed over.
    """
    for file in sorted(folder.glob("*.model")):
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.Load(str(file))
        except (OSError, RuntimeError):
            continue
        for line in _sample(processor):
            wanted = [_name(processor, id_) for id_ in processor.encode(line)]
            found = tokenizer.encode(line, add_special_tokens=False).tokens
            if wanted != found:
                raise UserError(
                    f"{file} is cut by transformers otherwise than by SentencePiece: {line[:80]!r} becomes "
                    f"{' '.join(found)[:100]}, not {' '.join(wanted)[:100]}; add the tokenizer.json that the model "
                    "was published with"
                )


def _name(processor: sentencepiece.SentencePieceProcessor, id_: int) -> str:
    return str(processor.id_to_piece(id_))


def _sample(processor: sentencepiece.SentencePieceProcessor) -> Iterator[str]:
    """Words of the vocabulary with one to three spaces between, and lines of any letters."""
    ids = range(0, len(processor), len(processor) // WORDS + 1)
    words = [_name(processor, id_).replace(SPACE, " ").strip() for id_ in ids if _is_text(processor, id_)]
    for number, first in enumerate(range(0, len(words), A_LINE)):
        yield (" " * (number % 3 + 1)).join(words[first : first + A_LINE])
    yield from LINES


def _is_text(processor: sentencepiece.SentencePieceProcessor, id_: int) -> bool:
    return not (processor.is_control(id_) or processor.is_unknown(id_) or processor.is_byte(id_))
