"""Small results come with the message that their call has finished, and outlive their runner."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import dask
import dask.config
import pytest
from dask.distributed import Client, wait
from hypothesis import given
from hypothesis import strategies as st

from dask_flame import FlameCluster, RunnerLost
from dask_flame.scheduler.inline_results import _EACH, InlineResults
from tests.scheduler.inline_calls import LARGE, large, once, pid
from tests.support.waiting import until, wait_for

#: An actor holds a slot.
pytestmark = pytest.mark.shared_cluster(concurrency=2)

Made = tuple[FlameCluster, Client]
Flame = Callable[..., Made]


@pytest.mark.unit
@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=300)) | st.integers(0, 5)))
def test_copies_are_bounded_and_the_latest(steps: list[Any]) -> None:
    most = 1_000
    kept = InlineResults(300, most)
    latest: dict[int, bytes] = {}
    for step in steps:
        if isinstance(step, tuple):
            key, data = step
            kept.keep(key, data)
            latest[key] = data
            assert key in kept
        else:
            kept.transition(step, "memory", "released")
            latest.pop(step, None)
            assert step not in kept
        assert kept.nbytes <= most
        found = kept.pickled(latest)
        assert kept.nbytes == sum(len(data) + _EACH for data in found.values())
        assert len(kept) == len(found)
        assert all(latest[key] == data for key, data in found.items())
    kept.restart(None)
    assert (len(kept), kept.nbytes) == (0, 0)


def kill(cluster: FlameCluster, process: int) -> None:
    os.kill(process, signal.SIGKILL)
    scheduler = cluster.scheduler
    wait_for(
        lambda: (
            process not in {ws.pid for ws in list(scheduler.workers.values()) if ws.name != "home"}
        )
    )


@pytest.mark.process
def test_a_small_result_is_read_without_its_runner(
    shared: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = shared
    small, big = client.submit(lambda: {"loss": [0.5, 0.25]}), client.submit(bytes, LARGE)
    wait([small, big])
    asked = []
    connect = client.rpc.connect

    async def counted(address: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(address)
        return await connect(address, *args, **kwargs)

    monkeypatch.setattr(client.rpc, "connect", counted)
    assert small.result() == {"loss": [0.5, 0.25]}
    assert asked == []
    # A part of several results may be elsewhere.
    assert client.gather([small, big]) == [{"loss": [0.5, 0.25]}, bytes(LARGE)]
    assert len(asked) == 1


@pytest.mark.process
def test_a_killed_runner_takes_no_small_result_with_it(flame: Flame, tmp_path: Any) -> None:
    cluster, client = flame(max=1)
    small = client.map(once, [str(tmp_path / "small")] * 5, pure=False)
    big = client.submit(large, str(tmp_path / "big"))
    wait([*small, big])
    kill(cluster, small[0].result())
    # Asked for by the client, and by another runner.
    assert len(set(client.gather(small))) == 1
    assert client.submit(lambda one: one, small[0]).result() == small[0].result()
    assert len(big.result()) == LARGE
    assert (tmp_path / "small").read_text() == "x" * 5
    assert (tmp_path / "big").read_text() == "xx"


@pytest.mark.process
def test_a_runner_that_ends_copies_no_small_result(
    flame: Flame, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, client = flame(max=1, idle_timeout="200ms")
    future = client.submit(pid)
    wait(future)
    (address,) = list(cluster.scheduler.workers)
    asked = []
    connect = cluster.scheduler.rpc.connect

    async def counted(to: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(to)
        return await connect(to, *args, **kwargs)

    monkeypatch.setattr(cluster.scheduler.rpc, "connect", counted)
    wait_for(lambda: not cluster.runners)
    assert cluster.home.held == 1
    assert future.result()
    assert address not in asked


@pytest.mark.process
def test_copies_go_with_their_results(flame: Flame) -> None:
    cluster, client = flame(max=1)
    futures = client.map(pid, range(10))
    wait(futures)
    copies = cluster.scheduler.inline_results
    assert len(copies) == 10
    del futures
    wait_for(lambda: not len(copies))
    assert copies.nbytes == 0
    kept = client.submit(pid)
    wait(kept)
    client.restart()
    wait_for(lambda: not len(copies))


@pytest.mark.process
def test_other_data_with_the_same_key_replace_the_copy(shared: Made) -> None:
    cluster, client = shared
    future = client.submit(int, 1, key="one")
    assert future.result() == 1
    client.scatter({"one": 2})
    assert "one" not in cluster.scheduler.inline_results


@pytest.mark.process
def test_a_client_elsewhere_gets_the_copy_from_the_scheduler(flame: Flame) -> None:
    cluster, client = flame(max=1)
    future = client.submit(pid)
    first = future.result()
    client.publish_dataset(mine=future)
    with Client(cluster.scheduler_address) as other:
        theirs = other.get_dataset("mine")
        assert theirs.result(timeout=60) == first
        kill(cluster, first)
        assert theirs.result(timeout=60) == first
        assert other.gather([theirs, other.submit(bytes, LARGE)]) == [first, bytes(LARGE)]


@pytest.mark.process
def test_none_is_sent_if_the_setting_says_so(tmp_path: Any) -> None:
    with (
        dask.config.set({"flame.inline-result": 0}),
        FlameCluster(max=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        future = client.submit(once, str(tmp_path / "calls"))
        first = future.result()
        assert len(cluster.scheduler.inline_results) == 0
        kill(cluster, first)
        assert future.result() != first
        assert (tmp_path / "calls").read_text() == "xx"


@pytest.mark.process
def test_an_actor_and_what_is_no_plain_data_stay_on_the_runner(shared: Made) -> None:
    cluster, client = shared

    class Counter:
        n = 0

        def more(self) -> int:
            self.n += 1
            return self.n

    actor = client.submit(Counter, actor=True).result()
    assert actor.more().result() == 1
    other = client.submit(Counter)
    assert other.result().n == 0
    assert len(cluster.scheduler.inline_results) == 0


@pytest.mark.process
def test_a_result_that_cannot_be_pickled_at_once_fails_nobody(shared: Made) -> None:
    _, client = shared

    def deep() -> list[Any]:
        nested: list[Any] = []
        for _ in range(1_200):
            nested = [nested]
        return [0] * 500 + [nested]

    bad, good = client.submit(deep), client.submit(pid)
    first = good.result()
    wait(bad)
    assert client.submit(pid, pure=False).result() == first


@pytest.mark.process
def test_a_call_that_is_lost_meanwhile_names_the_reason(
    flame: Flame, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, client = flame(max=1, concurrency=2)
    with dask.annotate(rerun=False):
        lost = client.submit(time.sleep, 600)
    kept = client.submit(pid)
    first = kept.result()
    opened = cluster.home._open

    async def late() -> Any:
        # Until the supervisor has told the reason.
        await until(lambda: cluster.scheduler.lost_calls._ended)
        return await opened()

    monkeypatch.setattr(cluster.home, "_open", late)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(RunnerLost, match="SIGKILL"):
        lost.result(timeout=60)
    assert kept.result() == first
