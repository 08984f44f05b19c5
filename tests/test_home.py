"""A pool shrinks to nothing although results are still wanted, and none is lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import wait_for
from distributed import WorkerPlugin, get_worker


def double(x: Any) -> Any:
    return x * 2


def gone(cluster: Any) -> bool:
    return not cluster.runners


def test_results_can_be_read_and_used_when_their_runners_are_gone(flame: Any) -> None:
    cluster, client = flame(max=3, idle_timeout="200ms")
    futures = client.map(np.arange, [10, 1000, 100_000])
    assert client.gather(client.map(len, futures)) == [10, 1000, 100_000]
    wait_for(lambda: gone(cluster))
    assert [len(a) for a in client.gather(futures)] == [10, 1000, 100_000]
    sums = client.gather(client.map(double, futures, pure=False))
    assert [int(a[-1]) for a in sums] == [18, 1998, 199_998]
    assert sum(e.kind == "boot" for e in cluster.events) >= 2
    wait_for(lambda: gone(cluster))
    assert len(futures[2].result()) == 100_000


def test_nothing_is_computed_twice_because_its_runner_went(flame: Any, tmp_path: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="100ms")

    def once(i: int) -> int:
        with (tmp_path / str(i)).open("a") as f:
            f.write("x")
        return i

    futures = client.map(once, range(20))
    assert client.gather(futures) == list(range(20))
    for _ in range(3):
        wait_for(lambda: gone(cluster))
        assert client.submit(sum, futures, pure=False).result(timeout=20) == 190
    assert [(tmp_path / str(i)).read_text() for i in range(20)] == ["x"] * 20


def test_home_exists_only_while_it_holds_something_and_is_seen_by_nobody(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms")
    future = client.submit(bytes, 1000)
    assert len(future.result(timeout=20)) == 1000
    wait_for(lambda: gone(cluster))
    assert set(cluster.scheduler.aliases) == {"home"}
    assert client.run(lambda: 1) == {}
    assert cluster.observed == set()
    future.release()
    wait_for(lambda: not cluster.scheduler.aliases, what="home is closed")


def test_home_takes_no_calls(flame: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="100ms")
    kept = client.submit(bytes, 10)
    kept.result(timeout=20)
    wait_for(lambda: gone(cluster))
    names = client.gather(
        [client.submit(lambda _, i: get_worker().name, kept, i, pure=False) for i in range(6)]
    )
    assert "home" not in names
    assert cluster.scheduler.demand() == 0


def test_results_that_nobody_wants_are_not_taken_home(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms")
    assert client.submit(bytes, 10).result(timeout=20) == bytes(10)
    wait_for(lambda: gone(cluster))
    assert not cluster.scheduler.aliases


def test_objects_of_the_notebook_come_home(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms")

    class Mine:
        def __init__(self, value: int) -> None:
            self.value = value

    future = client.submit(Mine, 7)
    assert future.result(timeout=20).value == 7
    wait_for(lambda: gone(cluster))
    assert future.result().value == 7
    assert client.submit(lambda mine: mine.value, future).result(timeout=20) == 7


class OnlyThere:
    """Can be unpickled on a runner only."""

    def __reduce__(self) -> Any:
        return _only_on_a_runner, ()


def _only_on_a_runner() -> OnlyThere:
    if "DASK_FLAME_RUNNER" not in os.environ:
        raise RuntimeError("not here")
    return OnlyThere()


def test_a_result_that_cannot_come_home_keeps_its_runner_which_goes_on(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    cluster, client = flame(max=1, idle_timeout="100ms")
    future = client.submit(OnlyThere)
    wait_for(lambda: any(e.kind == "kept" for e in cluster.events))
    assert list(cluster.runners) == ["runner-1"]
    assert client.submit(lambda there: type(there).__name__, future).result(timeout=20) == (
        "OnlyThere"
    )
    future.release()
    wait_for(lambda: gone(cluster))


def test_what_users_run_on_their_workers_does_not_run_in_the_driver(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms")

    class Note(WorkerPlugin):
        name = "note"

        def setup(self, worker: Any) -> None:
            os.environ["FLAME_TEST_NOTED"] = "yes"

    client.register_plugin(Note())
    future = client.submit(lambda: os.environ.get("FLAME_TEST_NOTED"))
    assert future.result(timeout=20) == "yes"
    wait_for(lambda: gone(cluster))
    assert set(cluster.scheduler.aliases) == {"home"}
    assert "FLAME_TEST_NOTED" not in os.environ


def test_scattered_data_boots_a_runner_and_comes_home(flame: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="200ms")
    data = client.scatter([1, 2, 3], timeout=30)
    assert client.submit(sum, data).result(timeout=20) == 6
    wait_for(lambda: gone(cluster))
    assert client.gather(data) == [1, 2, 3]
