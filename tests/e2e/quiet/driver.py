"""A driver that holds something, and ends: ``driver.py HOLD END``.

Its exit code and all that it writes are looked at from outside.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import psutil
from distributed import Client

from dask_flame import FlameCluster

sys.path.insert(0, os.path.dirname(__file__))
import holds  # a local module of the driver

OPTIONS: dict[str, Any] = {"min": 2, "max": 2, "dashboard_address": "127.0.0.1:0"}


def finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def begin() -> tuple[FlameCluster, Client]:
    cluster = FlameCluster(**OPTIONS)
    return cluster, Client(cluster)


def hold(cluster: Any, client: Client) -> None:
    KEPT.append(finished(holds.HOLDS[HOLD](holds.Held(cluster, client))))


def client_first() -> None:
    cluster, client = begin()
    hold(cluster, client)
    client.close()
    cluster.close()


def cluster_first() -> None:
    cluster, client = begin()
    hold(cluster, client)
    cluster.close()
    client.close()


def with_blocks() -> None:
    with FlameCluster(**OPTIONS) as cluster, Client(cluster) as client:
        hold(cluster, client)


def cluster_only() -> None:
    cluster, client = begin()
    hold(cluster, client)
    cluster.close()


def client_only() -> None:
    cluster, client = begin()
    hold(cluster, client)
    client.close()


def at_exit() -> None:
    hold(*begin())


def kept_at_exit() -> None:
    KEPT.extend(begin())
    hold(*KEPT[:2])


def exception() -> None:
    cluster, client = begin()
    hold(cluster, client)
    raise SystemExit(3)


def exception_in_with() -> None:
    with FlameCluster(**OPTIONS) as cluster, Client(cluster) as client:
        hold(cluster, client)
        raise SystemExit(3)


def interrupted() -> None:
    cluster, client = begin()
    hold(cluster, client)
    future = client.submit(holds.sleeps, "interrupted")
    main = threading.get_ident()
    threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    try:
        future.result()
    except KeyboardInterrupt:
        sys.exit(3)


def terminated() -> None:
    cluster, client = begin()
    hold(cluster, client)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def asynchronous() -> None:
    async def main() -> None:
        async with (
            FlameCluster(**OPTIONS, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            KEPT.append(await holds.HOLDS[HOLD](holds.Held(cluster, client)))

    asyncio.run(main())


def asynchronous_cluster_first() -> None:
    async def main() -> None:
        cluster = await FlameCluster(**OPTIONS, asynchronous=True)
        client = await Client(cluster, asynchronous=True)
        KEPT.append(await holds.HOLDS[HOLD](holds.Held(cluster, client)))
        await cluster.close()
        await client.close()

    asyncio.run(main())


def two_clusters() -> None:
    pairs = [begin(), begin()]
    for cluster, client in pairs:
        with client.as_current():
            hold(cluster, client)
    for cluster, client in pairs:
        cluster.close()
        client.close()


def two_clusters_at_exit() -> None:
    for cluster, client in (begin(), begin()):
        hold(cluster, client)
        KEPT.append(cluster)


def restarted() -> None:
    cluster, client = begin()
    hold(cluster, client)
    client.restart()
    cluster.close()


def scaled_to_zero() -> None:
    cluster, client = begin()
    hold(cluster, client)
    cluster.scale(0)
    cluster.close()


def resized_to_zero() -> None:
    cluster, client = begin()
    hold(cluster, client)
    cluster.resize("default", min=0, max=0)
    time.sleep(0.5)
    cluster.close()


def runner_killed() -> None:
    cluster, client = begin()
    hold(cluster, client)
    # Runners have the supervisor above them, and none below.
    leaves = [p for p in psutil.Process().children(recursive=True) if not p.children()]
    leaves[-1].kill()
    cluster.close()


def forgotten() -> None:
    import gc

    cluster, client = begin()
    hold(cluster, client)
    KEPT.clear()
    del cluster, client
    gc.collect()


def closed_twice() -> None:
    cluster, client = begin()
    hold(cluster, client)
    other = threading.Thread(target=cluster.close)
    other.start()
    cluster.close()
    other.join()
    client.close()
    cluster.close()


def remote_client() -> None:
    """A Client that connects by address, which the cluster does not know."""
    cluster, _ = begin()
    with Client(cluster.scheduler_address) as other:
        hold(cluster, other)
    cluster.close()


def remote_client_left() -> None:
    cluster, _ = begin()
    other = Client(cluster.scheduler_address)
    hold(cluster, other)
    KEPT.append(other)
    cluster.close()


ENDS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        client_first,
        cluster_first,
        with_blocks,
        cluster_only,
        client_only,
        at_exit,
        kept_at_exit,
        exception,
        exception_in_with,
        interrupted,
        terminated,
        asynchronous,
        asynchronous_cluster_first,
        two_clusters,
        two_clusters_at_exit,
        restarted,
        scaled_to_zero,
        resized_to_zero,
        runner_killed,
        forgotten,
        closed_twice,
        remote_client,
        remote_client_left,
    )
}
KEPT: list[Any] = []

if __name__ == "__main__":
    HOLD, END = sys.argv[1:3]
    ENDS[END]()
