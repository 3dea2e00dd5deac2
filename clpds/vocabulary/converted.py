"""A SentencePiece model that transformers has converted, held against SentencePiece itself."""

import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from clpds.errors import UserError

WORDS, A_LINE = 1024, 8  # of the vocabulary, in a sample
LINES = ("two  spaces", "four    spaces   three", "12,345.67 (8)", "don't stop!")
SPACE = "▁"


def require_cuts_of_sentencepiece(tokenizer: Tokenizer, folder: Path) -> None:
    """Raise UserError where ``tokenizer``, made of the ``*.model`` in ``folder``, cuts a sample otherwise than that.

    The conversion ranks some merges by id, which the model has a score for (Mistral's runs of spaces). A file that
    SentencePiece does not open, such as tiktoken's, is passed over.
    """
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for file in sorted(folder.glob("*.model")):
        processor = SentencePieceProcessor()
        try:
            processor.Load(str(file))
        except (OSError, RuntimeError):
            continue
        for line in _sample(processor, added):
            wanted = [str(processor.id_to_piece(id_)) for id_ in processor.encode(line)]
            # By id: where text is unknown, some models give the text for the token.
            found = [str(tokenizer.id_to_token(id_)) for id_ in tokenizer.encode(line, add_special_tokens=False).ids]
            if wanted != found:
                raise UserError(
                    f"{file} is cut by transformers otherwise than by SentencePiece: {line[:60]!r} becomes "
                    f"{' '.join(found)[:80]}, not {' '.join(wanted)[:80]}; add the tokenizer.json that the model "
                    "was published with"
                )


def _sample(processor: SentencePieceProcessor, without: Collection[str]) -> Iterator[str]:
    """Words of the vocabulary with one to three spaces between, and lines of any letters.

    Capitals and accents are left out: the classes of some models (ALBERT, XLNet) rewrite them first, as they should.
    """
    pieces = [str(processor.id_to_piece(id_)) for id_ in range(len(processor)) if _is_text(processor, id_)]
    words = [piece.replace(SPACE, " ").strip() for piece in pieces if piece not in without]
    words = [word for word in words if word and unicodedata.normalize("NFKD", word.lower()) == word]
    words = words[:: len(words) // WORDS + 1]
    for number, first in enumerate(range(0, len(words), A_LINE)):
        yield (" " * (number % 3 + 1)).join(words[first : first + A_LINE])
    yield from LINES


def _is_text(processor: SentencePieceProcessor, id_: int) -> bool:
    return not (processor.is_control(id_) or processor.is_unknown(id_) or processor.is_byte(id_))
