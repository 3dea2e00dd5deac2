"""Run a command as the child of a process that holds next to nothing, and write what it cost to a file of JSON.

Ends as the command ended, with 128 and the signal's number where that was one's doing, as in a shell.

Linux counts the memory of the parent at the start into ``ru_maxrss`` of the child: beside a benchmark that holds
2.8 GiB of matrices, every command seemed to take 2.8 GiB.
"""

import json
import os
import sys
import time
from pathlib import Path


def main(told: str, *command: str) -> None:
    """Start ``command``, which is looked for on the path, and wait for it."""
    begin = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    cost = {
        "seconds": time.monotonic() - begin,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }
    Path(told).write_text(json.dumps(cost), encoding="utf-8")
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main(*sys.argv[1:])
