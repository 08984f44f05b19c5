"""A cluster that has closed, that closes before it has started, or that may have no runner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import dask.config
import pytest
from distributed import Client

from dask_flame import FlameCluster, Pool, PoolError, on
from dask_flame.errors import BackendError, ClosedError
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

#: Holds the scheduler up, as a machine that is busy may, once its lease has begun.
SLOW = """
import asyncio, time

async def dask_setup(scheduler):
    async def hold_up():
        while not any(getattr(p, "_end", None) for p in list(scheduler.plugins.values())):
            await asyncio.sleep(0)
        time.sleep(1.2)
    scheduler.held_up = asyncio.ensure_future(hold_up())
"""


def asks_of(cluster: FlameCluster, client: Client, future: Any) -> list[Callable[[], object]]:
    return [
        lambda: client.gather([future]),
        lambda: client.scatter(3),
        lambda: client.who_has(),
        lambda: client.wait_for_workers(1),
        lambda: client.cancel([future]),
        future.result,
        lambda: cluster.resize(max=3),
        lambda: cluster.resize("default", idle_timeout="5s"),
        lambda: cluster.scale(3),
        lambda: cluster.adapt(maximum=3),
        lambda: cluster.wait_for_workers(1),
        cluster.get_logs,
    ]


@pytest.mark.parametrize("first", ["client", "cluster"])
def test_after_close_each_ask_is_answered_with_an_error_that_says_so(first: str) -> None:
    cluster = FlameCluster(max=1, name="mine", dashboard_address=None)
    client = Client(cluster)
    future = client.submit(int, 3)
    assert future.result(timeout=60) == 3
    for thing in (client, cluster) if first == "client" else (cluster, client):
        thing.close()
    for ask in asks_of(cluster, client, future):
        with pytest.raises(
            ClosedError, match=r"the cluster mine is closed; .*FlameCluster\(max=8\)"
        ):
            ask()
    # What needs no cluster goes on.
    assert cluster.pools["default"].max == 1
    assert len(cluster.events) > 0
    assert "closed" in repr(cluster)
    assert cluster.cost()["default"].runner_seconds > 0
    cluster.close()


@pytest.mark.asyncio
async def test_an_asynchronous_cluster_before_it_starts_and_after_its_end() -> None:
    cluster = FlameCluster(max=1, asynchronous=True, dashboard_address=None)
    for change in (lambda: cluster.resize(max=3), lambda: cluster.scale(2), cluster.adapt):
        with pytest.raises(BackendError, match="has not started; write `await cluster` before"):
            change()
    async with cluster:
        assert cluster.resize(max=3).max == 3
    for change in (lambda: cluster.resize(max=3), lambda: cluster.scale(2), cluster.adapt):
        with pytest.raises(ClosedError, match="is closed"):
            change()


def test_a_lifetime_that_is_over_before_the_start_is(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.ERROR),
        dask.config.set({"distributed.scheduler.preload": [SLOW]}),
        pytest.raises(ClosedError, match=r"max_lifetime=1 s has passed, before it had started"),
    ):
        FlameCluster(max=1, max_lifetime=1, dashboard_address=None)


@pytest.mark.asyncio
async def test_the_same_on_the_event_loop_that_runs() -> None:
    with dask.config.set({"distributed.scheduler.preload": [SLOW]}):
        cluster = FlameCluster(max=1, max_lifetime=1, asynchronous=True, dashboard_address=None)
        with pytest.raises(ClosedError, match="before it had started"):
            async with asyncio.timeout(30):
                await cluster


async def decided(cluster: FlameCluster) -> None:
    cluster._adaptive.decide()


@pytest.mark.parametrize("how", ["scale", "resize", "pool"])
def test_who_waits_where_there_may_be_no_runner_is_told_once(
    flame: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    pools = {"cpu": Pool(max=1), "gpu": Pool(max=0 if how == "pool" else 1)}
    cluster, client = flame(pools=pools)
    if how == "scale":
        cluster.scale(0)
    elif how == "resize":
        cluster.resize(max=0)
    pool, line = ("gpu", "'gpu', max=8") if how == "pool" else ("cpu", "max=8")
    with on(pool):
        futures = client.map(int, ["3", "4"])
    said = f"calls wait: max=0; write cluster.resize({line})"
    wait_for(lambda: [e for e in cluster.events if e.kind == "waiting"])
    with pytest.raises(PoolError, match=r"1 runner is asked for, and max=0; write cluster\.resize"):
        cluster.wait_for_workers(1, pool=pool)
    wait_for(lambda: cluster.scheduler.waiting() == 2)
    cluster.sync(decided, cluster)  # and it is not said again
    (event,) = [e for e in cluster.events if e.kind == "waiting"]
    assert (event.reason, event.pool) == (said, pool)
    assert f"waiting: {said}" in caplog.text
    eval(said.partition("write ")[2], {"cluster": cluster})
    assert client.gather(futures) == [3, 4]
    assert len([e for e in cluster.events if e.kind == "waiting"]) == 1
