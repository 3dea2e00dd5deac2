"""The small form of `make torture`: six kills, of ranks that are forks of one process that has the imports."""

import subprocess
import sys


def test_six_kills_lose_nothing() -> None:
    """Each is followed by a start without help; in the end all is as without a kill, bit for bit."""
    command = [sys.executable, "-m", "tests.torture", "--kills", "6", "--fork"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "survived 6 kills" in done.stdout
