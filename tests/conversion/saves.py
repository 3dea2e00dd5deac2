"""Real DeepSpeed saves of every kind, written by real ranks, with what the engines held when they saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.tiny import tiny_model

ODD = {"n_embd": 33, "n_head": 3}  # no bias, norm or matrix of an odd vocabulary divides by two ranks
VOCAB = 101
DEEPSEEK = {
    **{"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16},
    **{"num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 4, "num_key_value_heads": 4},
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1},
    **{"kv_lora_rank": 8, "q_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "tie_word_embeddings": False},
}


@dataclass(frozen=True)
class Case:
    """One way to train: what the files look like depends on each of these."""

    stage: int
    dtype: str
    shape: str
    tied: bool
    ranks: int = 2
    frozen: str | None = None
    """Parameters whose name holds this are not trained."""
    changes: tuple[tuple[str, Any], ...] = ()
    zero: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        ties = "tied" if self.tied else "untied"
        return f"zero{self.stage}-{self.dtype}-{self.shape}-{ties}-{self.ranks}" + ("-frozen" if self.frozen else "")


ODD_GPT2 = tuple(ODD.items())
SUB_GROUPS = (("sub_group_size", 1500), ("stage3_param_persistence_threshold", 40))
CASES = (
    Case(1, "float32", "gpt2", tied=True, frozen="h.0", changes=ODD_GPT2),
    Case(1, "bfloat16", "llama", tied=True),
    Case(2, "float32", "llama", tied=False, zero=(("round_robin_gradients", True),)),
    Case(2, "bfloat16", "gpt2", tied=True, frozen="wte", changes=ODD_GPT2, zero=(("parameter_alignment", True),)),
    Case(3, "float32", "gpt2", tied=True, frozen="h.0", changes=ODD_GPT2, zero=SUB_GROUPS),
    Case(3, "bfloat16", "llama", tied=True, frozen="embed_tokens", zero=SUB_GROUPS),
    Case(3, "float32", "deepseek_v3", tied=False, ranks=1, zero=SUB_GROUPS),
)


@dataclass
class Held:
    """What the engine of one case held at the moment of its save."""

    masters: dict[str, torch.Tensor]
    """float32 master weights by parameter name; frozen parameters, and all in float32 training, as they are."""
    logits: torch.Tensor
    buffers: dict[str, torch.Tensor]


def ids(seed: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(seed))


def fresh(case: Case) -> Any:
    """The model that the case trains; DeepSeek-V3 brings a persistent buffer and stacked experts."""
    if case.shape != "deepseek_v3":
        return tiny_model(case.shape, VOCAB, tied=case.tied, **dict(case.changes))
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**DEEPSEEK)).eval()
    model.model.layers[1].mlp.gate.e_score_correction_bias.normal_()
    return model


def train_and_save(root: Path, cases: tuple[Case, ...]) -> dict[str, Held]:
    """What a rank runs: two steps and a save for each case, into ``root/NAME/global_step2``."""
    from clpds.training.group import process_group

    with process_group():
        return {case.name: _train_and_save(root / case.name, case) for case in cases}


def _train_and_save(folder: Path, case: Case) -> Held:
    import deepspeed
    import torch.distributed as dist
    from deepspeed.utils import safe_get_full_fp32_param

    model = fresh(case)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(case.frozen is None or case.frozen not in name)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "bf16": {"enabled": case.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {"stage": case.stage, **dict(case.zero)},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(groups, lr=1e-2), config=config)
    for step in range(2):
        batch = ids(10 * step + dist.get_rank())
        engine.backward(engine(input_ids=batch, labels=batch).loss)
        engine.step()
    engine.save_checkpoint(str(folder), client_state={"epoch": 0})
    with torch.no_grad():
        logits = engine(input_ids=ids(99)).logits
    masters = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad and case.dtype != "float32":
            masters[name] = safe_get_full_fp32_param(parameter).clone()
        else:
            with deepspeed.zero.GatheredParameters([parameter]):
                masters[name] = parameter.detach().clone().float()
    buffers = {name: buffer.clone() for name, buffer in engine.module.named_buffers()}
    engine.destroy()
    return Held(masters, logits, buffers)
