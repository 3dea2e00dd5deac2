"""Types of options, checked by pydantic and shown by tyro.

This room is pure data and imports nothing heavy: a login node reads a recipe at once.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from pydantic import BeforeValidator, ConfigDict, Field
from tyro.conf import arg

Dtype = Literal["float32", "bfloat16", "float16"]


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):  # YAML reads yes and on as true, which would count as 1
        raise ValueError("Input should be a number, not yes or no")
    return value


Count = Annotated[int, BeforeValidator(_no_switch), Field(gt=0)]
Positive = Annotated[float, BeforeValidator(_no_switch), Field(gt=0)]
Amount = Annotated[float, BeforeValidator(_no_switch), Field(ge=0)]
Share = Annotated[float, BeforeValidator(_no_switch), Field(ge=0, le=1)]
NotNegative = Annotated[int, BeforeValidator(_no_switch), Field(ge=0)]
Files = Annotated[tuple[Path, ...], Field(min_length=1)]
OPTIONAL = "(optional)"
# Optional rather than `| None`: tyro then does without typeguard, whose import is 40 ms of 300.
MaybePath = Annotated[Optional[Path], arg(metavar="PATH", help_behavior_hint=OPTIONAL)]  # noqa: UP045
MaybeCount = Annotated[Optional[Count], arg(metavar="INT", help_behavior_hint=OPTIONAL)]  # noqa: UP045
MaybeDtype = Annotated[Dtype | None, arg(metavar="{float32,bfloat16,float16}", help_behavior_hint=OPTIONAL)]
MaybePositive = Annotated[Positive | None, arg(metavar="FLOAT", help_behavior_hint=OPTIONAL)]
MaybeShare = Annotated[Share | None, arg(metavar="FLOAT", help_behavior_hint=OPTIONAL)]
MaybeText = Annotated[Optional[str], arg(metavar="TEXT", help_behavior_hint=OPTIONAL)]  # noqa: UP045


class Checked:
    """Unknown keys, infinity and NaN are errors, in every section."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
