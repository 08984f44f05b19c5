"""A driver with runners on Slurm that waits to be killed: ``python -m … PHASE``."""

from __future__ import annotations

import os
import signal
import sys
import time

from distributed import Client

from dask_flame import FlameCluster


def work(folder: str) -> None:
    """Show that this call runs; ignore what would end it in peace (runner)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with open(os.path.join(folder, f"runs-{os.environ['SLURM_JOB_ID']}"), "w"):
        time.sleep(600)


def main(phase: str, folder: str) -> None:
    """Boot runners, and wait."""
    # Two nodes have room for one runner each in these phases, so that two jobs wait.
    options = {"cpus": 8, "max": 4} if phase in ("pending", "booting") else {"cpus": 1, "max": 2}
    if phase == "closed":
        options["partition"] = "closed"
    cluster = FlameCluster(
        backend="slurm", boot_timeout="1h", name="victim", dashboard_address=None, **options
    )
    client = Client(cluster)
    calls = client.map(work, [folder] * options["max"], pure=False)
    print("submitted", flush=True)
    if phase == "ending":
        sys.stdin.readline()
        print("ending", flush=True)
        cluster.close()
    time.sleep(600)
    del calls


if __name__ == "__main__":
    main(*sys.argv[1:])
