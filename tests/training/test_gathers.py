"""What ZeRO-3 fetches in a step does not depend on passes without gradients that were made before."""

from dataclasses import replace
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from clpds.recipe import Train, Validation
from tests.ranks import run_ranks
from tests.training.stages import run_stage, stage, write_inputs


def gathers(task: Train) -> int:
    """All-gathers of this rank's training, from its start to its end."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        run_stage(task)
    return sum(event.count for event in recorded.key_averages() if event.key == "c10d::_allgather_base_")


def test_a_trial_and_a_validation_before_the_first_step_cost_no_later_step_anything(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    plain = stage(inputs, tmp_path / "plain", isolate_documents=False)  # no trial whether the model can isolate
    asked = stage(inputs, tmp_path / "asked", validation=Validation(every=100, blocks=2))

    def per_step(task: Train) -> float:
        short, long = (
            run_ranks(2, gathers, replace(task, steps=steps, out=Path(f"{task.out}-{steps}")))[0] for steps in (4, 8)
        )
        return (long - short) / 4

    assert per_step(asked) == per_step(plain) > 0
