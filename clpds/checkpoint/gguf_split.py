r"""How a byte-level BPE of a GGUF file splits text before it merges: ``tokenizer.ggml.pre`` names the split.

The file has vocabulary and merges, not the pattern; merges that were learnt under one split give other tokens under
another. The names and patterns are llama.cpp's (src/llama-vocab.cpp), each in the form that the model's own
tokenizer.json has. A name with several patterns splits by the first, what is left by the second and so on.
"""

import sys
from pathlib import Path

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from clpds.gguf_header import read_header

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT, DIGITS = r"\p{N}", r"\p{N}{1,3}"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
BLANK = r"\s*[\r\n]+|\s+(?!\S)|\s+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|" + BLANK
REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + BLANK
LLAMA3 = f"{SHORT}|{WORD}|{DIGITS}|{REST}"
QWEN2 = f"{SHORT}|{WORD}|{DIGIT}|{REST}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
FIRST = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = f"{FIRST}{UPPER}*{LOWER}+|{FIRST}{UPPER}+{LOWER}*|{DIGIT}|{REST_SLASH}"
GPT4O = f"{FIRST}{UPPER}*{LOWER}+{SHORT}?|{FIRST}{UPPER}+{LOWER}*{SHORT}?|{DIGITS}|{REST_SLASH}"
HAN_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + BLANK
)
BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
JAIS2 = r"|".join(rf"\s{{{count}}}(?!\S)" for count in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))

SPLITS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("default",): (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    (
        "gpt-2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe",
        "gigachat", "a.x-4.0", "mellum", "modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4",
    ): (GPT2,),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"): (DIGIT, GPT2),
    (
        "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
        "dbrx", "smaug-bpe", "glm4", "chatglm-bpe",
    ): (LLAMA3,),
    (
        "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2",
    ): (QWEN2,),
    ("qwen35",): (
        rf"{SHORT}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{BLANK}",
    ),
    ("ufakzeka",): (f"{WORD}|{DIGIT}|{REST}",),
    ("laguna",): (r"[^\n]+|[\n]+", QWEN2),
    ("minicpm5",): (DIGITS, rf"{SHORT}|{WORD}|\p{{N}}+|{REST}"),
    ("jais-2",): (rf"{SHORT}|{WORD}|{DIGITS}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{JAIS2}|\s",),
    ("seed-coder",): (rf"{SHORT}|{WORD}|{DIGIT}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{BLANK}",),
    ("bailingmoe", "bailingmoe2", "llada-moe"): (
        rf"'(?i:[sdmt]|ll|ve|re)|{WORD}|{DIGIT}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    ("exaone-moe",): (
        rf"{SHORT}|{FIRST}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|{DIGIT}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    ("tekken",): (TEKKEN,),
    ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"): (GPT4O,),
    ("tiny_aya", "cohere2moe"): (r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O),
    ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"): (DIGITS, HAN_KANA, DEEPSEEK3),
    ("deepseek-coder",): (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, DIGIT),
    ("deepseek-llm",): (
        r"[\r\n]",
        r"\s?[\p{Lu}\p{Ll}\p{Lt}]+",  # listed there, up to Unicode 11
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        EAST_ASIAN,
        r"\p{N}+",
    ),
    ("falcon",): (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"),
    ("poro-chat", "bloom", "gpt3-finnish"): (BLOOM,),
    ("viking",): (BLOOM, DIGIT),
}  # fmt: skip
PATTERNS = {name: patterns for names, patterns in SPLITS.items() for name in names}
WHOLE_FIRST = (
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
    "tekken", "minicpm5",
)  # fmt: skip
"""Whose words that are tokens are not merged from letters (``ignore_merges``)."""


def set_split(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Make ``tokenizer``, which transformers made of ``file``, split text as the file says.

    Where the value is missing or not known here it stays GPT-2's split, or what transformers knows, and stderr says so.
    """
    fields = read_header(file).fields
    if fields.get("tokenizer.ggml.model") != "gpt2":  # SentencePiece does not split
        return
    name = fields.get("tokenizer.ggml.pre")
    if name not in PATTERNS:
        what = f"tokenizer.ggml.pre is {name!r}, which clpds does not know" if name else "tokenizer.ggml.pre is missing"
        sys.stderr.write(
            f"warning: {file}: {what}; text may be split otherwise than the model was "
            "trained with, which costs quality; take the original model instead where you have it\n"
        )
        return
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[name]]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, level])
    tokenizer.backend_tokenizer.model.ignore_merges = name in WHOLE_FIRST
