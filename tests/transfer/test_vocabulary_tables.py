"""Further tables that token ids index, and those of positions: each follows the vocabulary, or is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from clpds.checkpoint import anatomy, open_checkpoint, write_checkpoint
from clpds.checkpoint.lookups import require_known_tables
from clpds.errors import UserError
from clpds.recipe import Init
from tests.checkpoint.test_saved import SMALL, drawn
from tests.transfer.test_vocabulary_swap import new_ids, swapped

OLD = 96
IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
BASE: dict[str, Any] = {**SMALL, **IDS, "vocab_size": OLD}
GEMMA = {
    **{**BASE, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 8},
    **{"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"]},
}
TABLES = [
    ("Gemma4ForCausalLM", {**GEMMA, "vocab_size_per_layer_input": OLD}),  # a second table
    ("Gemma3nForCausalLM", {**GEMMA, "vocab_size_per_layer_input": OLD - 16, "intermediate_size": [64, 64]}),  # shorter
    ("MobileBertForMaskedLM", {**BASE, "embedding_size": 16, "intra_bottleneck_size": 16}),  # (h, V)
    ("MoshiForCausalLM", {**BASE, "num_key_value_heads": 2, "head_dim": 8}),  # one row behind the last token's
]
POSITIONS = [
    ("RoCBertForMaskedLM", BASE),  # further tables of a padding id, none of them of positions
    ("IBertForMaskedLM", BASE),  # a buffer beside each table
    ("LukeForMaskedLM", {**BASE, "entity_vocab_size": 20, "entity_emb_size": 32}),  # positions of entities from zero
]


def renumbered(name: str, settings: dict[str, Any], special: dict[str, int], tmp_path: Path) -> None:
    model = drawn(name, **settings)
    model.save_pretrained(tmp_path / "source")
    source, to = open_checkpoint(tmp_path / "source"), new_ids(special)
    step = Init(source=tmp_path, out=tmp_path / "out")
    write_checkpoint(swapped(source, to, special), step.out, step, inputs={}, card="")
    opened, loading = type(model).from_pretrained(step.out, output_loading_info=True)
    assert not any(loading.values())
    ids = torch.randperm(OLD - 3, generator=torch.Generator().manual_seed(1))[None, :40] + 3
    with torch.no_grad():
        before, after = model(input_ids=ids).logits, opened.eval()(input_ids=to[ids]).logits
    torch.testing.assert_close(after[..., to], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "settings"), TABLES, ids=[name for name, _ in TABLES])
def test_every_table_of_tokens_follows_the_vocabulary(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    renumbered(name, settings, IDS, tmp_path)


@pytest.mark.parametrize("pad", [0, 7])
@pytest.mark.parametrize(("name", "settings"), POSITIONS, ids=[name for name, _ in POSITIONS])
def test_positions_move_where_the_class_counts_them_from_the_padding_id(
    name: str, settings: dict[str, Any], pad: int, tmp_path: Path
) -> None:
    renumbered(name, settings, {"bos_token_id": 5, "pad_token_id": pad, "eos_token_id": 9}, tmp_path)


BLT = {
    **{"vocab_size": OLD, "encoder_hash_byte_group_size": [3], "encoder_hash_byte_group_vocab": 50},
    **{"encoder_hash_byte_group_nb_functions": 1, "cross_attn_k": 1},
    **{
        f"{part}_config": {
            **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
            **({} if part == "global" else {"vocab_size": OLD}),
        }
        for part in ("encoder", "decoder", "patcher", "global")
    },
}
REFUSED = [
    ("MPNetForMaskedLM", BASE, 7, "takes token 1 for padding"),
    ("BltForCausalLM", BLT, 1, "do not follow vocab_size"),
    (
        "DeepseekV4ForCausalLM",
        {
            **{**BASE, "head_dim": 16, "q_lora_rank": 16, "o_lora_rank": 16, "o_groups": 1, "qk_rope_head_dim": 8},
            **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_hash_layers": 1},
            **{"num_key_value_heads": 1, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 8},
        },
        1,
        "has whole numbers for each token id",
    ),
]


@pytest.mark.parametrize(("name", "settings", "pad", "reason"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_follow_is_refused_by_name(
    name: str, settings: dict[str, Any], pad: int, reason: str, tmp_path: Path
) -> None:
    drawn(name, **settings).save_pretrained(tmp_path / "source")
    special = {"bos_token_id": 5, "pad_token_id": pad, "eos_token_id": 9}
    with pytest.raises(UserError, match=reason):
        swapped(open_checkpoint(tmp_path / "source"), new_ids(special), special)


def test_a_table_of_tokens_outside_the_vocabulary_is_seen() -> None:
    with pytest.raises(UserError, match=r"local_encoder\.embed_tokens\.weight has a row for each token id"):
        require_known_tables(anatomy(transformers.BltConfig(**BLT)))
