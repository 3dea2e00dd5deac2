"""A result's files: one page that opens by itself, and the same bytes for the same numbers."""

import json
import re
from pathlib import Path

import numpy as np

from clpds.report.page import write_result
from clpds.report.result import Figure, Line, Result

RESULT = Result(
    title="A <claim>",
    paper="Somebody 2020",
    published="It is better.",
    measured="It is 2.0 times better.",
    shown=False,
    header=["", "loss"],
    rows=[["random", "3.10"], ["ours & theirs", "2.90"]],
    figures=[
        Figure(
            "Loss.",
            "tokens",
            "nats",
            [Line("ours", [np.array([0.0, 1.0, 2.0])] * 2, [np.array([3.0, 2.5, 2.2]), np.array([3.1, 2.4, 2.1])])],
            log=True,
        )
    ],
    settings=[("seeds", "2")],
    numbers={"loss": [2.2, 2.1]},
)


def test_the_page_opens_by_itself_and_again_with_the_same_bytes(tmp_path: Path) -> None:
    recipe = tmp_path / "arm.yaml"
    recipe.write_text("steps: {}\n")
    written = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        page = write_result(RESULT, tmp_path / name, command="clpds reproduce clp", recipes={"arm.yaml": recipe})
        written.append({file.name: file.read_bytes() for file in page.parent.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"result.json", "report.html", "figure-1.png"}
    page_text = written[0]["report.html"].decode()
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import", page_text)  # nothing is loaded from elsewhere
    assert "A &lt;claim&gt;" in page_text
    assert "ours &amp; theirs" in page_text
    assert "the claim does not show at this size" in page_text
    assert "steps: {}" in page_text
    assert json.loads(written[0]["result.json"])["numbers"] == {"loss": [2.2, 2.1]}
