"""The types that users have most: right through init, train, eval and plan, each against plain transformers.

The same check as `make matrix`, which does it for every type, two processes at a time.
"""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.matrix import runner
from tests.matrix.build import kinds
from tests.matrix.check import COLUMNS, Outcome
from tests.matrix.inputs import write_inputs

CAUSAL = (
    "bloom", "cohere", "deepseek_v3", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gpt_oss",
    "granite", "llama", "mamba", "mistral", "mixtral", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "qwen3_moe",
    "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
MASKED = ("bert", "deberta-v2", "electra", "modernbert", "roberta", "xlm-roberta")
POPULAR = [*(f"{kind}-causal" for kind in CAUSAL), *(f"{kind}-masked" for kind in MASKED)]
# What is refused in one line, because nothing right can be said of it.
REFUSED = {"mamba-causal": ["plan"]}  # it has no attention heads to count


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Of the types whose tests were asked for."""
    folder = tmp_path_factory.mktemp("popular")
    asked: Iterable[pytest.Item] = (item for item in request.session.items if item.path == Path(__file__))
    wanted = [item.callspec.params["kind"] for item in asked if hasattr(item, "callspec")]
    return {kind.key: found for kind, found in runner.run(kinds(wanted), write_inputs(folder), folder).items()}


@pytest.mark.parametrize("kind", POPULAR)
def test_is_what_plain_transformers_makes_of_it(kind: str, outcomes: dict[str, Outcome]) -> None:
    found = outcomes[kind]
    assert found.keys() == set(COLUMNS)
    others = {column: said for column, said in found.items() if not said.startswith("ok")}
    assert list(others) == REFUSED.get(kind, []), others
    assert all(said.startswith("refused: ") for said in others.values())
