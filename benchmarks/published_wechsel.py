"""The package wechsel, as its README has it, in an environment of its own: the peer of init_wechsel.

PYTHON benchmarks/published_wechsel.py SOURCE TOKENIZER SOURCE.bin TARGET.bin DICTIONARY OUT
"""

import sys

import fasttext
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from wechsel import WECHSEL


def main(source: str, tokenizer: str, ours: str, theirs: str, dictionary: str, out: str) -> None:
    model, target = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(tokenizer)
    wechsel = WECHSEL(fasttext.load_model(ours), fasttext.load_model(theirs), bilingual_dictionary=dictionary)
    matrix = model.get_input_embeddings().weight.detach().numpy()
    rows, _ = wechsel.apply(AutoTokenizer.from_pretrained(source), target, matrix)
    model.resize_token_embeddings(len(target))
    model.get_input_embeddings().weight.data = torch.from_numpy(rows)
    model.save_pretrained(out)
    target.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
