"""A new driver takes over the futures of one that is gone."""

from __future__ import annotations

from typing import Any

import pytest
from distributed import Client, Event

import dask_flame
from dask_flame import Lease
from dask_flame.errors import FlameError
from dask_flame.lease import client_sessions
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def waits(name: str) -> str:
    return "went on" if Event(name).wait(60) else "late"


def hand_over(cluster: Any) -> None:
    async def now() -> None:
        cluster.scheduler.plugins[Lease.name].hand_over(60)

    cluster.sync(now)


def test_futures_go_to_the_new_driver_at_once(flame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, old = flame(max=1, disconnect_grace="500ms")
    # Whoever comes back has been replaced.
    monkeypatch.setattr(client_sessions, "RETURN_WITHIN", 0.0)
    futures = [old.submit(waits, "on", key="b"), old.submit(abs, -1, key="a")]
    futures.append(old.submit(divmod, 1, 0, key="c"))
    wait_for(lambda: {"a", "b", "c"} <= cluster.scheduler.tasks.keys())
    hand_over(cluster)
    wait_for(lambda: old.id not in cluster.scheduler.client_comms)
    with Client(cluster) as new:
        kept = dask_flame.recover(new)
        assert list(kept) == ["b", "a", "c"]
        # It may come back now, and has nothing that it could release.
        wait_for(lambda: all(future.cancelled() for future in futures))
        Event("on", client=new).set()
        assert kept["b"].result(60) == "went on"
        assert kept["a"].result(60) == 1
        with pytest.raises(ZeroDivisionError):
            kept["c"].result(60)
        again = dask_flame.recover()
        assert list(again) == ["b", "a", "c"]
        del kept["a"], again["a"]
        wait_for(lambda: "a" not in dask_flame.recover(new))


def test_a_driver_that_is_alive_keeps_its_futures(flame: Any) -> None:
    cluster, new = flame(max=1)
    assert dask_flame.recover(new) == {}
    with Client(cluster, set_as_default=False) as other:
        future = other.submit(abs, -1, key="a")
        assert future.result(60) == 1
        hand_over(cluster)
        sessions = cluster.scheduler.plugins[Lease.name]._sessions
        wait_for(lambda: not sessions.records[other.id].handed_over)
        assert dask_flame.recover(new) == {}
        assert future.result(60) == 1
        assert other.submit(abs, -2).result(60) == 2


def test_what_a_replaced_driver_releases_is_kept(flame: Any) -> None:
    # It was suspended when it was replaced. It wakes, its client connects again at once, and it
    # closes before its successor has asked for its work.
    cluster, new = flame(max=1)
    with Client(cluster, set_as_default=False) as old:
        futures = [old.submit(abs, -1, key="a"), old.submit(waits, "later", key="b")]
        assert futures[0].result(60) == 1
        hand_over(cluster)
        sessions = cluster.scheduler.plugins[Lease.name]._sessions
        wait_for(lambda: not sessions.records[old.id].handed_over)
    wait_for(lambda: old.id not in cluster.scheduler.clients)
    kept = dask_flame.recover(new)
    assert list(kept) == ["a", "b"]
    Event("later", client=new).set()
    assert [kept[key].result(60) for key in "ab"] == [1, "went on"]
    kept.clear()
    wait_for(lambda: not {"a", "b"} & cluster.scheduler.tasks.keys())


def test_what_an_independent_client_releases_is_released(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_sessions, "SETTLED_AFTER", 0.0)
    cluster, _ = flame(max=1)
    with Client(cluster, set_as_default=False) as other:
        future = other.submit(abs, -1, key="a")
        assert future.result(60) == 1
        hand_over(cluster)
        sessions = cluster.scheduler.plugins[Lease.name]._sessions
        wait_for(lambda: other.id in cluster.scheduler.client_comms)
        wait_for(lambda: sessions._handed_over is None)
        future.release()
        wait_for(lambda: "a" not in cluster.scheduler.tasks)


def test_the_calls_of_a_map_are_in_their_order(flame: Any) -> None:
    cluster, client = flame(max=1)
    words = [f"word-{n}" for n in range(40)]
    made = [*client.map(len, words), client.submit(len, "one"), *client.map(str.upper, words)]
    # One that needs others comes after them, and they stay where they are.
    made += [client.submit(sum, made[:40]), client.submit(len, "two")]
    client.gather(made)
    assert list(dask_flame.recover(client)) == []
    hand_over(cluster)
    with Client(cluster, name="observer", set_as_default=False) as observer:
        assert list(dask_flame.recover(observer)) == [future.key for future in made]


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"is not a distributed\.Client"):
        dask_flame.recover("shop")  # type: ignore[arg-type]


def test_a_cluster_without_a_lease() -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        pytest.raises(FlameError, match="has no lease"),
    ):
        dask_flame.recover(client)
