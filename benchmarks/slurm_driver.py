"""A driver of the benchmark of Slurm: ``python slurm_driver.py WHO WHAT CALLS SECONDS FOLDER``."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from distributed import Client

#: How the line with the measurements begins.
MARK = "measured: "


def call(seconds: float) -> str:
    """Take some time (runner)."""
    time.sleep(seconds)
    return os.environ["SLURM_JOB_ID"]


def cluster_of(who: str, calls: int, folder: str) -> Any:
    """Return a cluster of this contender, without runners."""
    if who == "flame":
        from dask_flame import FlameCluster

        return FlameCluster(
            backend="slurm",
            max=calls,
            cpus=1,
            memory="500 MiB",
            interface="lo",
            folder=folder,
            dashboard_address=None,
        )
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(
        cores=1,
        processes=1,
        memory="500 MiB",
        walltime="02:00:00",
        interface="lo",
        local_directory=folder,
        log_directory=folder,
        scheduler_options={"dashboard_address": None},
    )
    cluster.adapt(minimum=0, maximum=calls)
    return cluster


def main(who: str, what: str, calls: int, seconds: float, folder: str) -> None:
    """Measure, and print it; or wait to be killed."""
    with cluster_of(who, calls, folder) as cluster, Client(cluster) as client:
        begun = time.monotonic()
        futures = client.map(call, [seconds] * calls, pure=False)
        registered = 0.0
        while not (what == "calls" and all(future.done() for future in futures)):
            there = len(client.scheduler_info(n_workers=-1)["workers"])
            if there >= calls and not registered:
                registered = time.monotonic() - begun
                if what == "kill":
                    print(MARK + "{}", flush=True)
            time.sleep(0.02)
        found: dict[str, Any] = {"makespan": time.monotonic() - begun}
        if registered:
            found["registered"] = registered
        found["runners"] = len(set(client.gather(futures)))
        print(MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    who, what, calls, seconds, folder = sys.argv[1:]
    main(who, what, int(calls), float(seconds), folder)
