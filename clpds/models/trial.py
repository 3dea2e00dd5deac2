"""A small copy of a model to try things on: its class, layers and switches, narrow, in float32, random weights.

What a class does with documents in a row does not depend on its widths or weights, and a copy of a few million
parameters tells it to the last digits, where the model itself, in bfloat16 and sliced over ranks, would cost a pass
of gathers and drown the difference in rounding. Windows are cut to a few tokens, so that a short trial goes beyond
them. Whether a narrow config works is found by building it; where none does, there is no copy.
"""

import copy
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

WINDOW = 4  # tokens
LARGE = 50_000_000  # parameters above which a copy has to be narrow; none has more
NOISE = 0.1  # standard deviation of what is added to fresh weights: with 0.02 all attention is even

# Fields of configs: a pattern of the name, and what a larger number becomes.
Sizes = tuple[tuple[re.Pattern[str], int], ...]
WINDOWS: Sizes = (
    (re.compile(r"sliding_window(_size)?|window_size|local_attention|attention_window(_size)?"), WINDOW),
    (re.compile(r"attention_chunk_size|keep_window_size|local_attention_window_len"), WINDOW),
    (re.compile(r"index_topk"), WINDOW),
)
SIZES: Sizes = tuple(
    (re.compile(pattern), size)
    for pattern, size in (
        (r".*(intermediate|ffn|ff|feed_forward)(_\w*)?(size|dim)|dff|dim_ff|n_inner|d_inner|hidden_dim", 96),
        (r"(.*_)?(num_|n_)?(attention_)?heads|n_head|.*_n_heads", 4),
        (r"(kv|q|o)_lora_rank|.*_rank", 16),
        (r"n_group|num_expert_group", 2),
        (r"topk_group", 1),
        (r"(moe_)?(num_|n_)(local_|routed_)?experts", 16),
    )
)
WIDTH = re.compile(
    r"hidden_size|d_model|n_embd|emb_dim|dim|embedding_dim|word_embed_proj_dim|attention_hidden_size|embedding_size|"
    r"lru_width|true_hidden_size|backbone_hidden_size|(in|out)put_embedding_size"
)
GROUPS = re.compile(r".*(num_|n_)(key_value|kv)_heads|n_head_kv|num_query_groups")
HEAD = re.compile(r"(.*_)?head_(dim|size)|d_head|dim_head|kv_channels|attention_head_size|d_kv")
NAMED_IDS = re.compile(r".*_token_(id|index)")
TOKENS = 64  # rows of a narrow copy's table, unless the padding token lies beyond


def small_copy(model: PreTrainedModel, device: torch.device) -> PreTrainedModel | None:
    """A model of the same class on ``device``, in evaluation mode; ``model`` may be sliced or on the meta device.

    The weights are the same on all ranks and every time. None where no small config of the class works.
    """
    size = sum(getattr(held, "ds_numel", held.numel()) for held in model.parameters())
    attempts = [
        ((GROUPS, groups), (WIDTH, width), *head, *WINDOWS, *SIZES)
        for width, head in ((64, [(HEAD, 16)]), (64, []), (128, []), (256, []))
        for groups in (2, 4)
    ]
    if size <= LARGE:
        attempts = [WINDOWS, ()]
    for sizes in attempts:
        config = copy.deepcopy(model.config)
        _shrink(config, sizes, narrow=size > LARGE)
        with _own_chance():
            try:
                with torch.device("meta"):
                    if type(model)(copy.deepcopy(config)).num_parameters() > LARGE:
                        continue
                made = _build(type(model), config).to(device)
                with torch.no_grad():
                    made(input_ids=some_ids(made, 3 * WINDOW)[None], **without_cache(made))
            except Exception:  # a class checks its config with whatever comes to mind
                continue
        return made
    return None


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """What to pass to a model's forward, or its engine's, so that it keeps nothing for a next token."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def some_ids(model: PreTrainedModel, count: int) -> torch.Tensor:
    """``count`` tokens (int64) without a role in the model's config, each another than the one before it."""
    config = model.config.get_text_config()
    special = set(_named_ids(model.config)) | set(_named_ids(config))
    ordinary = [number for number in range(min(config.vocab_size, TOKENS)) if number not in special]
    places = torch.arange(count) * 7 % len(ordinary)
    return torch.tensor(ordinary)[places].to(next(model.parameters()).device)


def _named_ids(config: PretrainedConfig) -> Iterator[int]:
    for name, value in vars(config).items():
        if NAMED_IDS.fullmatch(name):
            yield from (number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int))


def _build(cls: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    made = cls(config).float().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(NOISE * torch.randn_like(parameter))
    made.tie_weights()
    return made


@contextmanager
def _own_chance() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _shrink(config: PretrainedConfig, sizes: Sizes, *, narrow: bool) -> None:
    """Make the numbers of a config small, in its parts too."""
    tokens = TOKENS
    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            _shrink(value, sizes, narrow=narrow)
        elif not name.startswith("_"):
            small = next((size for pattern, size in sizes if pattern.fullmatch(name)), None)
            if small is not None and _larger(value, small):
                _set(config, name, [small] * len(value) if isinstance(value, list) else small)
    if not narrow:
        return
    if isinstance(pad := getattr(config, "pad_token_id", None), int):
        tokens = max(tokens, pad + 2)
    for name, value in list(vars(config).items()):
        if re.fullmatch(r"(.*_)?vocab_size(_\w*)?|n_words|n_tokens", name) and _larger(value, tokens):
            _set(config, name, tokens)
        elif NAMED_IDS.fullmatch(name) and isinstance(value, int) and value >= tokens:
            _set(config, name, tokens - 1)
        elif NAMED_IDS.fullmatch(name) and isinstance(value, list):
            _set(config, name, [min(number, tokens - 1) for number in value])


def _larger(value: Any, small: int) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_larger(item, small) for item in value)
    return isinstance(value, int) and not isinstance(value, bool) and value > small


def _set(config: PretrainedConfig, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except Exception:  # a strict class may not allow it: the config keeps what it has
        return
