"""A driver of `ssh.py`: `python ssh_driver.py WHO MEASURE CALLS SECONDS HOST…`, and JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dask.distributed import Client, SSHCluster

from dask_flame import FlameCluster


def started(who: str, hosts: Sequence[str], calls: int) -> Any:
    """Return a cluster for this number of calls at a time, spread over the hosts."""
    each = -(-calls // len(hosts))
    if who == "flame":
        places = [{"host": host, "slots": each} for host in hosts]
        return FlameCluster(
            backend="ssh", hosts=places, max=calls, idle_timeout="1s", dashboard_address=None
        )
    # The scheduler is on the first host. Each worker has a connection of its own.
    return SSHCluster(
        [hosts[0], *(host for host in hosts for _ in range(each))][: calls + 1],
        connect_options={"known_hosts": str(Path("~/.ssh/known_hosts").expanduser())},
        worker_options={"nthreads": 1},
        scheduler_options={"port": 0, "dashboard": False},
        remote_python=sys.executable,
    )


def wave(client: Client, calls: int, seconds: float) -> dict[str, float]:
    """Call; return after how long all workers were there, and all results."""
    begun = time.perf_counter()
    futures = client.map(lambda _: time.sleep(seconds), range(calls), pure=False)
    while len(client.scheduler_info(n_workers=-1)["workers"]) < calls:
        time.sleep(0.02)
    registered = time.perf_counter() - begun
    client.gather(futures)
    return {"registered": registered, "results": time.perf_counter() - begun}


def main(who: str, measure: str, calls: int, seconds: float, hosts: Sequence[str]) -> None:
    """Measure, and print JSON; or print that calls run, and wait to be killed."""
    begun = time.perf_counter()
    cluster = started(who, hosts, calls)
    client = Client(cluster)
    cluster_there = time.perf_counter() - begun
    if measure == "kill":
        futures = client.map(lambda _: time.sleep(600), range(calls), pure=False)
        while sum(map(len, client.processing().values())) < calls:
            time.sleep(0.1)
        print("running", flush=True)
        time.sleep(600)
        del futures
    first = wave(client, calls, seconds)
    found = {"cluster": cluster_there, **{k: v + cluster_there for k, v in first.items()}}
    if who == "flame":
        # A second wave, in the same cluster: its hosts are connected, and it has no runner.
        while client.scheduler_info(n_workers=-1)["workers"]:
            time.sleep(0.02)
        found |= {f"{name} again": value for name, value in wave(client, calls, seconds).items()}
    client.close()
    cluster.close()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
