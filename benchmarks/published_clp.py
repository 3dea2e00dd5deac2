"""CLP-Transfer as it was published, a token at a time, and as one product of dense matrices: the peers of init_clp.

After the paper (Ostendorff & Rehm 2023, arXiv 2301.09626): whole models in memory, shared tokens found by
their spelling, all cosines at once, then a weighted mean for each missing token.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class Published:
    """Write ``out``: the source with rows for the helper's tokens, and ``step.json`` with what the rows took."""

    source: Path
    helper: Path
    out: Path
    dense: bool = False
    """One product of matrices for all missing tokens in place of the loop."""
    every: int = 1
    """The loop does every so many missing tokens, the others stay random."""


def main(options: Published) -> None:
    model = AutoModelForCausalLM.from_pretrained(options.source)
    helper = AutoModelForCausalLM.from_pretrained(options.helper)
    target = AutoTokenizer.from_pretrained(options.helper)
    source_ids, ids = AutoTokenizer.from_pretrained(options.source).get_vocab(), target.get_vocab()
    S = model.get_input_embeddings().weight.detach().numpy()
    H = helper.get_input_embeddings().weight.detach().numpy()
    begin = time.monotonic()
    shared = [token for token in ids if token in source_ids]
    missing = sorted(id_ for token, id_ in ids.items() if token not in source_ids)
    s_o = S[[source_ids[token] for token in shared]]
    new = np.random.default_rng(42).normal(S.mean(axis=0), S.std(axis=0), (len(ids), S.shape[1])).astype(S.dtype)
    new[[ids[token] for token in shared]] = s_o
    unit = H / np.linalg.norm(H, axis=1, keepdims=True)
    cosines = unit[missing] @ unit[[ids[token] for token in shared]].T
    loop = time.monotonic()
    done = missing if options.dense else missing[:: options.every]
    if options.dense:
        new[missing] = (cosines @ s_o) / cosines.sum(axis=1, keepdims=True)
    else:
        for place, id_ in zip(range(0, len(missing), options.every), done, strict=True):
            new[id_] = np.average(s_o, axis=0, weights=cosines[place] / cosines[place].sum())
    end = time.monotonic()
    model.resize_token_embeddings(len(ids))
    model.get_input_embeddings().weight.data = torch.from_numpy(new)
    model.save_pretrained(options.out)
    target.save_pretrained(options.out)
    told = {"before": loop - begin, "loop": end - loop, "shared": [ids[token] for token in shared], "made": done}
    (options.out / "step.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(tyro.cli(Published))
