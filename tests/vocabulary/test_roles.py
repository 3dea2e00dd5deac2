"""Special tokens by role: GPT-2, Llama, BERT and back."""

from transformers import PreTrainedTokenizerFast

from clpds.vocabulary.overlap import overlap
from clpds.vocabulary.roles import match_special, special_ids
from tests.tiny import tiny_tokenizer
from tests.vocabulary.made import byte_level

END = "<|endoftext|>"


def _gpt2() -> PreTrainedTokenizerFast:
    return byte_level([END], bos_token=END, eos_token=END, unk_token=END)


def _by_name(source: PreTrainedTokenizerFast, target: PreTrainedTokenizerFast) -> dict[str, str]:
    matched = match_special(source, target)
    return {target.convert_ids_to_tokens(a): source.convert_ids_to_tokens(b) for a, b in matched.items()}


def test_gpt2_to_llama_to_bert_and_back() -> None:
    llama, bert = tiny_tokenizer("sp_bpe"), tiny_tokenizer("wordpiece")
    assert _by_name(_gpt2(), llama) == {"<s>": END, "</s>": END}
    assert _by_name(llama, bert) == {"[CLS]": "<s>", "[SEP]": "</s>", "[UNK]": "<unk>"}
    assert _by_name(bert, llama) == {"<s>": "[CLS]", "</s>": "[SEP]", "<unk>": "[UNK]"}
    assert _by_name(llama, _gpt2()) == {END: "</s>"}
    assert _by_name(tiny_tokenizer("unigram"), bert)["[MASK]"] == "<mask>"
    assert len(overlap(_gpt2(), llama).target) == 2 + sum(overlap(_gpt2(), llama).how[k] for k in ("text", "byte"))


def test_the_same_role_comes_before_the_one_that_stands_for_it() -> None:
    roles = {"bos_token": "<s>", "cls_token": "<cls>", "eos_token": "</s>", "sep_token": "<sep>"}
    both = byte_level(list(roles.values()), **roles)
    assert _by_name(both, tiny_tokenizer("wordpiece")) == {"[CLS]": "<cls>", "[SEP]": "<sep>"}
    assert _by_name(both, tiny_tokenizer("sp_bpe")) == {"<s>": "<s>", "</s>": "</s>"}


def test_a_pad_that_is_the_eos_is_no_partner() -> None:
    target = byte_level(["</s>", "<pad>"], eos_token="</s>", pad_token="<pad>")
    pads_with_eos = byte_level([END], eos_token=END, pad_token=END)
    assert _by_name(pads_with_eos, target) == {"</s>": END}
    assert overlap(pads_with_eos, target).missing.tolist() == [257]
    pads_with_unk = byte_level([END, "?"], eos_token=END, pad_token="?", unk_token="?")
    assert _by_name(pads_with_unk, target) == {"</s>": END, "<pad>": "?"}


def test_other_special_tokens_match_by_spelling() -> None:
    source = byte_level(["<|im_start|>", "<|im_end|>", "<pad>"], eos_token="<|im_end|>")
    target = byte_level(["<|im_end|>", "<|im_start|>", "<pad>", "<|tool|>"], eos_token="<|im_end|>", pad_token="<pad>")
    assert _by_name(source, target) == {name: name for name in ("<|im_end|>", "<|im_start|>", "<pad>")}


def test_special_text_matches_no_plain_text() -> None:
    source = byte_level([], {"<s>": 256})
    assert overlap(source, byte_level(["<s>"])).missing.tolist() == [256]
    assert overlap(byte_level(["<s>"]), source).missing.tolist() == [256]


def test_special_ids_are_those_of_a_config() -> None:
    assert special_ids(_gpt2()) == {"bos_token_id": 256, "eos_token_id": 256, "unk_token_id": 256}
    assert special_ids(tiny_tokenizer("wordpiece")) == {
        "pad_token_id": 0,
        "unk_token_id": 1,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "mask_token_id": 4,
    }
