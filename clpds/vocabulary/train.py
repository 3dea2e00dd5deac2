"""Train a tokenizer: byte-level BPE, unigram or WordPiece, laid out as their best-known users lay them out.

The same text gives the same bytes on every machine. Where a trainer walks its words in the order of
a hash table, what depends on that order is settled before it starts.
"""

import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import datasets
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from clpds import provenance, recipe
from clpds.data.read import read_documents
from clpds.data.unknown import unknown_share_of, warn_of_unknown
from clpds.errors import UserError
from clpds.output import makes_folder, new_folder
from clpds.progress import progress
from clpds.vocabulary.tokenizer import save

# GPT-2's words without its English contractions, and with the marks that Arabic, Hindi or Thai
# write over and under letters kept inside the word.
WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
LONGEST = 1000
"""Characters of a stretch without white space, as Chinese or Thai have them, that unigram training takes at once;
SentencePiece drops, silently, what is longer than 4,192 bytes."""
RESERVED = {"\0", "▅"}  # SentencePiece drops what has these too
LONGEST_WORD = 100
"""Characters of a WordPiece word; longer ones are cut, where BERT has only [UNK] for them."""
# BERT's normalizer deletes all control, format and private characters of Unicode; with some of the second kind Khmer
# (U+200B), Persian (U+200C) and Hindi (U+200D) are written.
CONTROL = r"[\p{Cc}\x{FFFD}&&[^\t\n\r]]"
SAMPLE, SAMPLE_LENGTH = 1000, 10_000  # documents, and characters of each, in which unknown text is looked for
COVERAGE = 0.99999
"""Share of the text's characters that get a token; the rarest, mostly foreign or broken, do not."""
BPE_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
UNIGRAM_ROLES = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
WORDPIECE_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@makes_folder
def train_tokenizer(step: recipe.Tokenizer) -> None:
    """Do ``clpds tokenizer``: write the folder ``step.out``, which AutoTokenizer opens.

    Raises UserError for text that is missing or empty and for a vocab_size below what the kind needs.
    """
    documents = read_documents(step.input, text_key=step.text_key)
    backend, roles = TRAINERS[step.kind](documents, step.vocab_size)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        # Where nothing is said, transformers 4 adds token types, which causal models refuse.
        model_input_names=["input_ids", *(["token_type_ids"] if step.kind == "wordpiece" else []), "attention_mask"],
        **roles,
    )
    with new_folder(step.out, overwrite=step.overwrite) as folder:
        save(tokenizer, folder)
        inputs = {f"input {number}": path for number, path in enumerate(step.input, 1)}
        some = documents[:: len(documents) // SAMPLE + 1]["text"]
        share = unknown_share_of((text[:SAMPLE_LENGTH] for text in some), backend)
        provenance.record(
            folder, step, inputs, tokens=len(tokenizer), documents=len(documents), unknown_share=round(share, 6)
        )
    if tokenizer.unk_token is not None:
        sys.stdout.write(
            f"{step.out}: {share:.3%} of the text (by bytes, in {len(some):,} documents) is unknown to it\n"
        )
    warn_of_unknown(share, "the text", "the vocabulary is too small for its characters, or most of them are rare")
    if len(tokenizer) < step.vocab_size:
        sys.stderr.write(f"{step.out}: the text yields {len(tokenizer):,} tokens, fewer than {step.vocab_size:,}\n")


def _bpe(documents: datasets.Dataset, vocab_size: int) -> tuple[Tokenizer, dict[str, str]]:
    """All 256 bytes are tokens, so nothing is unknown and every text comes back as it was."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = list(BPE_ROLES.values())
    _require_room(vocab_size, len(specials) + len(alphabet), "bpe", "256 bytes and the special tokens")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(_batches(documents), trainer)
    return backend, BPE_ROLES


def _unigram(documents: datasets.Dataset, vocab_size: int) -> tuple[Tokenizer, dict[str, str]]:
    """SentencePiece trains, since the trainer of tokenizers gives other scores in every process."""
    normalizer = normalizers.NFKC()
    words = Counter(
        word for batch in _batches(documents) for text in batch for word in normalizer.normalize_str(text).split()
    )
    alphabet = _alphabet(words) - RESERVED
    words = _parts(words, alphabet)
    specials = list(dict.fromkeys(UNIGRAM_ROLES.values()))
    needed = len(specials) + len(alphabet | {"▁"})
    _require_room(vocab_size, needed, "unigram", f"the {len(alphabet)} characters of this text and the special tokens")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(f"{word}\t{count}" for word, count in words.items()),
        input_format="tsv",
        model_writer=model,
        model_type="unigram",
        vocab_size=vocab_size - len(specials) + 1,  # SentencePiece counts <unk> only
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        bos_id=-1,
        eos_id=-1,
        num_threads=16,  # part of the result: sums are taken per thread, on however many cores
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    learned = [(processor.id_to_piece(id_), processor.get_score(id_)) for id_ in range(1, len(processor))]
    vocabulary = [(token, 0.0) for token in specials] + learned
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=specials.index("<unk>"), byte_fallback=False))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(specials)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, specials.index(token)) for token in ("<s>", "</s>")],
    )
    return backend, UNIGRAM_ROLES


def _wordpiece(documents: datasets.Dataset, vocab_size: int) -> tuple[Tokenizer, dict[str, str]]:
    normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(CONTROL), ""), normalizers.BertNormalizer(clean_text=False, lowercase=False)]
    )
    pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex(f".{{{LONGEST_WORD}}}"), behavior="isolated")]
    )
    characters: Counter[str] = Counter()
    for batch in _batches(documents, "counting characters"):
        for text in batch:
            characters.update(normalizer.normalize_str(text))
    alphabet = sorted(character for character in _alphabet(characters) if not character.isspace())
    # The trainer numbers the ##x that it meets in the order of a hash table, so they are given.
    inside = [f"##{x}" for x in alphabet if len(pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(f"a{x}"))) == 1]
    specials = list(WORDPIECE_ROLES.values())
    needed = len(specials) + len(alphabet) + len(inside)
    what = f"the {len(alphabet)} characters of this text, most of them twice, and the special tokens"
    _require_room(vocab_size, needed, "wordpiece", what)
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normalizer, pre_tokenizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*specials, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(_batches(documents), trainer)
    backend = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens(specials)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, specials.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return backend, WORDPIECE_ROLES


TRAINERS: dict[str, Callable[[datasets.Dataset, int], tuple[Tokenizer, dict[str, str]]]] = {
    "bpe": _bpe,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
}


def _alphabet(counts: Counter[str]) -> set[str]:
    """The most frequent characters of the counted words that together make up COVERAGE of the text."""
    characters: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            characters[character] += count
    allowed = (1 - COVERAGE) * characters.total()
    kept = set(characters)
    for character, count in sorted(characters.items(), key=lambda item: (item[1], item[0])):
        allowed -= count
        if allowed < 0:
            break
        kept.discard(character)
    return kept


def _parts(words: Counter[str], alphabet: set[str]) -> Counter[str]:
    """The counted words cut at characters without a token, and where they are longer than SentencePiece takes."""
    parts: Counter[str] = Counter()
    for word, count in words.items():
        known = [word] if alphabet.issuperset(word) else "".join(x if x in alphabet else " " for x in word).split()
        for part in known:
            for first in range(0, len(part), LONGEST):
                parts[part[first : first + LONGEST]] += count
    return parts


def _require_room(vocab_size: int, needed: int, kind: str, what: str) -> None:
    if vocab_size < needed:
        raise UserError(f"vocab_size is {vocab_size}, but {kind} needs {needed} at least: {what}")


def _batches(documents: datasets.Dataset, what: str = "training the tokenizer") -> Iterator[list[str]]:
    with progress(f"{what} (documents)", len(documents)) as advance:
        for batch in documents.iter(1000):
            yield batch["text"]
            advance(len(batch["text"]))
