"""``make cluster``: the tests' Slurm of two nodes, to try things out on."""

import signal
import sys
import tempfile
from pathlib import Path

from tests.cluster.cluster import running_cluster, why_not

if reason := why_not():
    sys.exit(reason)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
with tempfile.TemporaryDirectory(prefix="clpds-cluster-") as folder, running_cluster(Path(folder)) as cluster:
    print(f"A Slurm of two nodes runs. In another shell:\n\n    export SLURM_CONF={cluster.folder}/slurm.conf\n")
    print("Ctrl-C ends it, with all its jobs.", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("ending")
