"""A client knows what the scheduler's store knows, on any cluster, over drops of its connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from distributed import Client, LocalCluster

import dask_flame
from dask_flame import FlameError, Lease, Reports, reports_of
from dask_flame.driver.hosts import replication
from dask_flame.reports import ReportStore
from dask_flame.reports.driver.replica import ReportReplica
from dask_flame.reports.scheduler import publisher as following
from dask_flame.reports.wire import NAME, Batch
from dask_flame.testing import Proxy
from tests.core.test_channel import Pair
from tests.reports.driver.replica_calls import go, train, waits
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@contextlib.contextmanager
def stock(*plugins: Any, **options: Any) -> Iterator[LocalCluster]:
    """A stock cluster whose workers are threads of this process."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False, "plugins": list(plugins)},
        **options,
    ) as cluster:
        yield cluster


def there(cluster: Any) -> ReportStore:
    plugin = cluster.scheduler.plugins[NAME]
    assert isinstance(plugin, Reports)
    return plugin.store


def test_a_copy_has_what_was_and_what_comes_before_results_do() -> None:
    with stock(Reports(points=500)) as cluster, Client(cluster) as client:
        client.submit(train, 30, key="before").result()
        copy = reports_of(client)
        assert copy.calls == there(cluster).calls
        assert copy.limits == (1000, 500, 5_000_000)
        assert reports_of(client) is copy
        for n in (1, 700):
            client.submit(train, n, key=f"after-{n}").result()
            assert len(copy.calls) == len(there(cluster).calls)
            assert copy.calls[f"after-{n}"].series["loss"].made == n
        wait_for(lambda: copy.calls == there(cluster).calls)
    assert len(copy.calls) == 3  # to be read after the end


def test_a_cluster_without_the_plugin_says_what_to_write() -> None:
    with stock() as cluster, Client(cluster) as client:
        with pytest.raises(FlameError, match=r"client.register_plugin\(dask_flame.Reports\(\)\)"):
            reports_of(client)
        client.register_plugin(Reports())
        assert reports_of(client).calls == {}
    with pytest.raises(FlameError, match="reports_of"):
        reports_of()


def test_clients_that_are_gone_are_told_nothing() -> None:
    with stock(Reports()) as cluster, Client(cluster) as client:
        followers = cluster.scheduler.plugins[NAME]._followers
        with Client(cluster.scheduler_address, set_as_default=False) as other:
            assert reports_of(other).calls == {}
            assert set(followers._publisher._followers) == {other.id}
        wait_for(lambda: not followers._publisher._followers)
        assert not there(cluster)._subscribers
        client.submit(train, 3).result()


def test_one_that_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that it is never told of a change, but only that there was one.
    monkeypatch.setattr(following, "_MAX_QUEUED", -1)
    with stock(Reports()) as cluster, Client(cluster) as client:
        copy = reports_of(client)
        client.gather(client.map(train, range(1, 20), key=[f"call-{i}" for i in range(1, 20)]))
        wait_for(lambda: copy.calls == there(cluster).calls)
        assert len(copy.calls) == 19


def test_a_copy_is_whole_again_when_the_connection_is_back() -> None:
    dask_flame.resume_clients()
    go.clear()
    with (
        stock(Reports(), Lease("60s")) as cluster,
        Proxy(cluster.scheduler_address) as proxy,
        Client(proxy.address) as client,
    ):
        copy = reports_of(client)
        future = client.submit(waits, 5, key="call")
        wait_for(lambda: "call" in copy)
        proxy.cut()
        wait_for(lambda: client.id not in cluster.scheduler.client_comms)
        go.set()
        wait_for(lambda: there(cluster).calls["call"].state == "done")
        assert copy.calls["call"].state == "running"
        proxy.restore()
        future.result()
        wait_for(lambda: copy.calls == there(cluster).calls)
        assert copy.calls["call"].series["loss"].made == 10


@pytest.mark.asyncio
async def test_an_asynchronous_client_awaits_it() -> None:
    async with (
        LocalCluster(
            n_workers=1,
            processes=False,
            asynchronous=True,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False, "plugins": [Reports()]},
        ) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        copy = await reports_of(client)
        await client.submit(train, 3, key="call")
        assert copy.calls["call"].series["loss"].made == 3


def test_of_a_flame_cluster_it_is_its_own_store(flame: Any) -> None:
    cluster, client = flame(max=1)
    assert reports_of(client) is reports_of() is cluster.reports
    with Client(cluster.scheduler_address, set_as_default=False) as other:
        copy = reports_of(other)
        client.submit(train, 3, key="call").result()
        wait_for(lambda: copy.calls == cluster.reports.calls)
        assert copy.calls["call"].runner == "runner-1"


# A scheduler in a pod tells its driver


def batch(first: int) -> Batch:
    return Batch("call", "a", "r0", False, [first], [float(first)], {"loss": [0.5]})


@pytest.mark.asyncio
async def test_a_driver_that_was_away_for_long_is_told_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication, "_MOST_WAITING", 20)
    here, there = ReportStore(), ReportStore()
    publisher = following.ReportPublisher(there)

    async with Pair(
        {"reports": lambda number, change: replica.take(number, change)},
        {"follow": lambda: publisher.follow("driver", replication.DriverFollower(pair.there))},
    ) as pair:
        replica = ReportReplica(partial(pair.here.ask, "follow"), lambda: True, here)
        await pair.meet()
        await replica.follow()
        pair.here.cut()
        await pair.until(lambda: not pair.there.connected)
        waiting = pair.there.waiting
        for i in range(100):
            there.add(batch(i))
        there.end("call", "done", 1.0)
        # The changes until there are too many, and that some are missing.
        assert pair.there.waiting - waiting <= 21
        await pair.meet()
        await pair.until(lambda: here.calls == there.calls)
        assert here.calls["call"].series["loss"].made == 100
        there.begin("call", 2.0)
        await pair.until(lambda: here.calls == there.calls)
        await replica.close()
