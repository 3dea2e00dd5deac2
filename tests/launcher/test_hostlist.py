"""Host lists against their definition, and against Slurm's own program where it is."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clpds.errors import UserError
from launcher.hostlist import expand

NAMES = st.text("abz-", min_size=1, max_size=4)


@st.composite
def brackets(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A bracket's text and the numbers that it stands for."""
    texts, numbers = [], []
    for _ in range(draw(st.integers(1, 3))):
        first, width = draw(st.integers(0, 120)), draw(st.integers(1, 4))
        count = draw(st.integers(1, 12))
        written = [str(first + i).zfill(max(width, len(str(first)))) for i in range(count)]
        last = draw(st.sampled_from([written[-1], str(first + count - 1)]))  # [001-12] is [001-012]
        texts.append(written[0] if count == 1 else f"{written[0]}-{last}")
        numbers += written
    return f"[{','.join(texts)}]", numbers


@st.composite
def hostlists(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Entries such as ``a[1-2]b[3-4]-c`` and the hosts that they stand for."""
    texts, hosts = [], []
    for _ in range(draw(st.integers(1, 3))):
        parts = [(name, [name]) for name in draw(st.lists(NAMES, min_size=1, max_size=3))]
        pairs = [pair for part in parts for pair in (part, draw(brackets()))][: draw(st.integers(1, 4))]
        texts.append("".join(text for text, _ in pairs))
        hosts += ["".join(choice) for choice in itertools.product(*[choices for _, choices in pairs])]
    return ",".join(texts), hosts


@given(hostlists())
def test_expansion_is_the_definition(case: tuple[str, list[str]]) -> None:
    text, hosts = case
    assert expand(text) == hosts


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node[001-004,7]", ["node001", "node002", "node003", "node004", "node7"]),
        ("a[1-2]b[3-4]", ["a1b3", "a1b4", "a2b3", "a2b4"]),
        ("gpu-a1,gpu-b[07-09]", ["gpu-a1", "gpu-b07", "gpu-b08", "gpu-b09"]),
        ("n[8-11,099-101]", ["n8", "n9", "n10", "n11", "n099", "n100", "n101"]),
        ("127.0.0.[1-2]", ["127.0.0.1", "127.0.0.2"]),
        ("login1", ["login1"]),
    ],
)
def test_written_out(text: str, hosts: list[str]) -> None:
    assert expand(text) == hosts


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="no scontrol: Slurm is not installed")
@pytest.mark.parametrize(
    "text", ["node[001-004,7]", "a[1-2]b[3-4]", "gpu-a1,gpu-b[07-09]", "n[8-11,099-101],x[1,1]y[2]", "m1"]
)
def test_as_scontrol_does(text: str, tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=none\nSlurmctldHost=localhost\n")  # read, never contacted
    done = subprocess.run(
        ["scontrol", "show", "hostnames", text],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")},
    )
    assert expand(text) == done.stdout.split()


@pytest.mark.parametrize(
    "text", ["", "n[1-2", "n1]", "n[]", "n[2-1]", "n[a-b]", "n[1,,2]", "a,,b", ",a", "a b", "n[[1]]"]
)
def test_what_is_no_hostlist(text: str) -> None:
    with pytest.raises(UserError):
        expand(text)
