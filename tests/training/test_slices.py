"""Under ZeRO-3 every parameter starts as the checkpoint has it, whatever its class does with names and lists."""

from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch

from clpds.checkpoint import open_checkpoint
from clpds.checkpoint.anatomy import own_parameters
from clpds.training.engine import build_model
from clpds.training.group import process_group
from tests.checkpoint.test_saved import SMALL, drawn
from tests.ranks import run_ranks
from tests.training.stages import FP32_ZERO3

REFORMER = {
    **{"vocab_size": 64, "hidden_size": 32, "feed_forward_size": 64, "attn_layers": ["local", "local"]},
    **{"num_attention_heads": 4, "attention_head_size": 8, "axial_pos_shape": [4, 16], "axial_pos_embds_dim": [16, 16]},
    **{"local_attn_chunk_length": 16, "max_position_embeddings": 64, "is_decoder": True},
}


def wrong(folder: Path) -> list[str]:
    checkpoint, found = open_checkpoint(folder), []
    config = {**FP32_ZERO3, "train_micro_batch_size_per_gpu": 1}
    with process_group() as device:
        model = build_model(checkpoint, config, device)
        for name, parameter in own_parameters(model).items():
            with deepspeed.zero.GatheredParameters(parameter):
                if not torch.equal(parameter.data, checkpoint.tensors[name].load()):
                    found.append(name)
    return found


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("XLMRobertaForMaskedLM", SMALL),  # the tied matrix goes by the head's name first
        ("ReformerModelWithLMHead", REFORMER),  # parameters in a list that is filled after it is made
    ],
)
def test_every_parameter_is_the_checkpoints(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    drawn(name, **settings).save_pretrained(tmp_path)
    assert run_ranks(2, wrong, tmp_path) == [[], []]
