"""How the cost of a command grows with the model: its time on a line, its memory not at all."""

from collections.abc import Mapping

import numpy as np

from benchmarks.costs import Cost
from benchmarks.table import Row


def by_bytes(what: str, points: Mapping[int, Cost], name: str, nbytes: int) -> list[Row]:
    """Of ``points``, bytes of a model to the cost, smallest first: the last's memory beside the first's, asked to be
    as much within a tenth, and the seconds of a model ``name`` of ``nbytes`` by the line through them.
    """
    sizes, taken = np.array(list(points)), np.array([cost.seconds for cost in points.values()])
    peaks = [cost.peak_bytes for cost in points.values()]
    slope, start = np.polyfit(sizes, taken, 1)
    by_line = float(start + slope * nbytes)
    listed = ", ".join(f"{size / 1e9:.1f} GB {cost.seconds:.1f} s" for size, cost in points.items())
    detail = {
        "bytes": list(points),
        "seconds": taken.tolist(),
        "peaks": peaks,
        "seconds_off_the_line": (taken - start - slope * sizes).tolist(),
    }
    return [
        Row(
            f"{what}, peak memory at {sizes[-1] / sizes[0]:.1f} times the bytes",
            f"{peaks[-1] / 2**30:.2f} GiB",
            f"{peaks[0] / 2**30:.2f} GiB",
            peaks[-1] / peaks[0],
            "x",
            "<=",
            1.1,
            detail,
        ),
        Row(f"{what} of {name} by the line through these", f"{by_line:,.0f} s", listed, by_line, "s"),
    ]
