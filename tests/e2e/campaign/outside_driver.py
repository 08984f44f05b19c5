"""A driver outside of the cluster, in a process of its own: ``outside_driver.py SEED`` (driver)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))

from dask.distributed import Client

from dask_flame import FlameCluster
from tests.e2e.campaign.outside_case import GRACE, make_outside_case

#: Seconds that a call of a driver that is to be killed takes, at least.
_LONG = 300.0


def work(number: int, seconds: float) -> int:
    """Take this long."""
    time.sleep(seconds)
    return number


def main(seed: str) -> None:
    """Make a cluster, submit the calls, say how far it is, and what came of them."""
    case = make_outside_case(int(seed))
    print("begun", flush=True)
    with (
        FlameCluster(
            backend="kubernetes",
            image="image:1",
            max=case.calls,
            dashboard_address=None,
            disconnect_grace=GRACE,
            idle_timeout="1s",
        ) as cluster,
        Client(cluster) as client,
    ):
        seconds = _LONG if case.what in ("busy", "long outage") else case.seconds
        numbers = list(range(case.calls))
        futures = client.map(work, numbers, seconds=seconds, pure=False)
        while sum(member.busy for member in cluster.runners.values()) < case.calls:
            time.sleep(0.01)
        print("busy", flush=True)
        try:
            print("results", client.gather(futures), flush=True)
        except BaseException as error:
            print("error", f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
