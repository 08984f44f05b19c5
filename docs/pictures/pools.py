"""Take a picture of the page /pools, from a real run of two minutes.

    python pools.py pools-page.png

Two pools of local processes, one of which says that its runners have a GPU; one runner is killed,
and a third pool cannot boot.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

from dask.distributed import Client, Future
from shoot import shoot

from dask_flame import FlameCluster, Pool, on

#: Ready once the timeline has bars and something was lost.
READY = """() => {
  const doc = window.Bokeh && Bokeh.documents[0];
  const [lives, ends] = ["pools-lives", "pools-ends"].map((n) => doc && doc.get_model_by_name(n));
  return lives && lives.get_length() > 0 && ends.get_length() > 0;
}"""


def work(seconds: float) -> None:
    until = time.time() + seconds
    while time.time() < until:
        sum(range(20_000))
        time.sleep(0.02)


def main(output: str) -> None:
    pools = {
        "train": Pool(max=14, idle_timeout="15s"),
        "embed": Pool(max=4, gpus=1, concurrency=2, idle_timeout="20s"),
        "broken": Pool(max=2, preload=["a_module_that_is_not_there"], boot_attempts=1),
    }
    chance, calls = random.Random(4), list[Future]()
    with (
        FlameCluster(pools=pools, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        page = cluster.dashboard_link.removesuffix("/status") + "/pools"

        def submit(pool: str, what: str, number: int, low: float, high: float) -> None:
            seconds = [chance.uniform(low, high) for _ in range(number)]
            keys = [f"{what}-{i}" for i in range(number)]
            with on(pool):
                calls.extend(client.map(work, seconds, key=keys))

        submit("train", "fold", 20, 8, 22)
        submit("embed", "chunk", 9, 6, 15)
        time.sleep(12)
        with on("broken"):
            calls.append(client.submit(work, 1, key="never"))
        with on("train"):
            pid = client.submit(os.getpid, key="pid", priority=10).result()
        time.sleep(4)
        os.kill(pid, signal.SIGKILL)
        for wave in range(5):
            time.sleep(12)
            submit("train", f"rate={wave}", 6, 4, 12)
            if wave in (1, 3):
                submit("embed", f"query{wave}", 3, 5, 10)
        time.sleep(8)
        submit("train", "last", 9, 12, 20)
        time.sleep(4)
        shoot(page, output, width=1400, height=900, wait=READY)


if __name__ == "__main__":
    main(*sys.argv[1:])
