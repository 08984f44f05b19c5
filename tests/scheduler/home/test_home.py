"""A pool shrinks to nothing although results are still wanted, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
from distributed import WorkerPlugin, get_worker
from distributed.client import FutureCancelledError

from dask_flame import FlameCluster
from dask_flame.errors import PoolError, RunnerLost
from dask_flame.scheduler.home import worker as resting
from dask_flame.scheduler.home.store import ResultStore
from tests.scheduler.home.calls import Counted, OnlyThere, array, double
from tests.support.paths import ROOT
from tests.support.waiting import wait_for, wait_for_text

pytestmark = pytest.mark.process


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
        assert client.submit(sum, futures, pure=False).result(timeout=60) == 190
    assert [(tmp_path / str(i)).read_text() for i in range(20)] == ["x"] * 20


def test_home_exists_only_while_it_holds_something_and_is_seen_by_nobody(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms")
    future = client.submit(bytes, 1000)
    assert len(future.result(timeout=60)) == 1000
    wait_for(lambda: gone(cluster))
    assert set(cluster.scheduler.aliases) == {"home"}
    assert client.run(lambda: 1) == {}
    assert cluster.observed == set()
    future.release()
    wait_for(lambda: not cluster.scheduler.aliases, what="home is closed")


def test_home_takes_no_calls(flame: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="100ms")
    kept = client.submit(bytes, 10)
    kept.result(timeout=60)
    wait_for(lambda: gone(cluster))
    names = client.gather(
        [client.submit(lambda _, i: get_worker().name, kept, i, pure=False) for i in range(6)]
    )
    assert "home" not in names
    assert cluster.scheduler.demand() == 0


def test_results_that_nobody_wants_are_not_taken_home(flame: Any) -> None:
    # That it is not wanted is known before the runner is idle for so long.
    cluster, client = flame(max=1, idle_timeout="1s")
    assert client.submit(bytes, 10).result(timeout=60) == bytes(10)
    wait_for(lambda: gone(cluster))
    assert not cluster.scheduler.aliases


def test_objects_of_the_notebook_come_home(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms")

    class Mine:
        def __init__(self, value: int) -> None:
            self.value = value

    future = client.submit(Mine, 7)
    assert future.result(timeout=60).value == 7
    wait_for(lambda: gone(cluster))
    assert future.result().value == 7
    assert client.submit(lambda mine: mine.value, future).result(timeout=60) == 7


def test_a_result_that_the_driver_cannot_unpickle_comes_home(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    cluster, client = flame(max=1, idle_timeout="100ms")
    future = client.submit(OnlyThere)
    wait_for(lambda: gone(cluster) and cluster.home.held == 1)
    for _ in range(2):
        name = client.submit(lambda there: type(there).__name__, future, pure=False)
        assert name.result(timeout=60) == "OnlyThere"
        wait_for(lambda: gone(cluster))
    assert not any(e.kind == "kept" for e in cluster.events)
    with pytest.raises(RuntimeError, match="not here"):
        future.result(timeout=60)


def test_nothing_is_unpickled_on_its_way_home(flame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(Counted, "unpickled", 0)
    cluster, client = flame(max=1, idle_timeout="100ms")
    future = client.submit(Counted)
    wait_for(lambda: gone(cluster) and cluster.home.held == 1)
    assert Counted.unpickled == 0
    assert isinstance(future.result(timeout=60), Counted)
    assert Counted.unpickled == 1


@pytest.mark.parametrize("what", ["lock", "part"])
def test_a_result_that_cannot_be_sent_keeps_its_runner_which_goes_on(flame: Any, what: str) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms")

    def make(what: str) -> Any:
        lock = threading.Lock()
        return lock if what == "lock" else [np.arange(3), lock]

    future, other = client.submit(make, what), client.submit(bytes, 1000)
    wait_for(lambda: any(e.kind == "kept" for e in cluster.events))
    kept = next(e for e in cluster.events if e.kind == "kept")
    assert kept.reason.startswith("1 result could not be copied: ")
    assert "cannot pickle '_thread.lock' object" in kept.reason
    assert list(cluster.runners) == ["runner-1"]
    kind = client.submit(lambda made: type(made).__name__, future)
    assert kind.result(timeout=60) == ("lock" if what == "lock" else "list")
    assert other.result(timeout=60) == bytes(1000)
    future.release()
    kind.release()
    wait_for(lambda: gone(cluster))


@pytest.mark.parametrize("how", ["plain", "tls", "compressed"])
def test_whatever_it_is_it_comes_back_as_it_was(
    flame: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"security": True} if how == "tls" else {}
    if how == "compressed":
        monkeypatch.setenv("DASK_DISTRIBUTED__COMM__COMPRESSION", "zlib")
        options["env"] = {"DASK_DISTRIBUTED__COMM__COMPRESSION": "zlib"}
    with dask.config.set(
        {
            "flame.home.memory": "1 MiB",
            "distributed.comm.compression": "zlib" if how == "compressed" else False,
        }
    ):
        cluster, client = flame(max=1, idle_timeout="200ms", **options)

        def make() -> list[Any]:
            rng = np.random.default_rng(0)
            return [
                rng.standard_normal(9_000_000),  # 72 MB: more than one frame
                np.zeros((3, 50_000)),
                {"a": rng.integers(0, 9, 10), "b": [b"x" * 100_000, "y"], (1, 2): None},
                pd.DataFrame({"n": range(1000), "t": [str(i) for i in range(1000)]}),
                np.asfortranarray(np.arange(6.0).reshape(2, 3))[:, ::2],
                (),
                b"",
                None,
                range(3),
            ]

        wanted = make()
        whole = client.submit(make)
        parts = [client.submit(lambda w, i: w[i], whole, i) for i in range(len(wanted))]
        wait_for(lambda: gone(cluster) and cluster.home.held == 10, within=200)
        assert cluster.home.memory <= 2**20
        assert cluster.home.disk > 70e6
        for got in (whole.result(), client.gather(parts), client.gather(parts, direct=True)):
            for a, b in zip(got, wanted, strict=True):
                assert type(a) is type(b)
                if isinstance(b, np.ndarray):
                    np.testing.assert_array_equal(a, b)
                    assert a.flags.writeable
                elif isinstance(b, pd.DataFrame):
                    pd.testing.assert_frame_equal(a, b)
                elif isinstance(b, dict):
                    assert repr(a) == repr(b)
                else:
                    assert a == b
        there = client.submit(lambda x: (float(x.sum()), x.flags.writeable), parts[0], pure=False)
        assert there.result(timeout=60) == (float(wanted[0].sum()), True)


def test_what_users_run_on_their_workers_does_not_run_in_the_driver(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms")

    class Note(WorkerPlugin):
        name = "note"

        def setup(self, worker: Any) -> None:
            os.environ["FLAME_TEST_NOTED"] = "yes"

    client.register_plugin(Note())
    future = client.submit(lambda: os.environ.get("FLAME_TEST_NOTED"))
    assert future.result(timeout=60) == "yes"
    wait_for(lambda: gone(cluster))
    assert set(cluster.scheduler.aliases) == {"home"}
    assert "FLAME_TEST_NOTED" not in os.environ


def test_scattered_data_boots_a_runner_and_comes_home(flame: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="200ms")
    data = client.scatter([1, 2, 3], timeout=30)
    assert client.submit(sum, data).result(timeout=60) == 6
    wait_for(lambda: gone(cluster))
    assert client.gather(data) == [1, 2, 3]


# How much, and where


def stored(cluster: Any) -> list[Path]:
    """Files in which results at home are."""
    return [p for p in Path(cluster.backend.folder).glob("*/*/results/*") if p.is_file()]


def kept(cluster: Any) -> list[str]:
    return [e.reason for e in cluster.events if e.kind == "kept"]


def test_beyond_its_memory_results_are_in_files_until_they_are_released(flame: Any) -> None:
    with dask.config.set({"flame.home.memory": "1 MB"}):
        cluster, client = flame(max=2, idle_timeout="100ms")
        futures = client.map(array, [0.3] * 20 + [2], pure=False)
        wait_for(lambda: gone(cluster) and cluster.home.held == 21)
        home = cluster.home
        assert home.memory <= 1_000_000
        assert home.memory + home.disk == pytest.approx(8_000_000, rel=0.01)
        assert sum(p.stat().st_size for p in stored(cluster)) == home.disk
        assert [len(a) for a in client.gather(futures)] == [300_000] * 20 + [2_000_000]
        del futures[10:]
        wait_for(lambda: home.held == 10)
        wait_for(lambda: sum(p.stat().st_size for p in stored(cluster)) == home.disk)
        assert home.memory + home.disk == pytest.approx(3_000_000, rel=0.01)
        assert client.submit(len, futures[0]).result(timeout=60) == 300_000
        del futures
        wait_for(lambda: home.held == 0)
        assert (home.memory, home.disk) == (0, 0)
        wait_for(lambda: not stored(cluster))


def test_a_runner_whose_results_do_not_fit_stays_until_there_is_room(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms", home_limit="5 MB")
    small = client.map(array, [0.5, 2], pure=False)
    wait_for(lambda: gone(cluster) and cluster.home.held == 2)
    large = client.submit(array, 3)
    wait_for(lambda: kept(cluster))
    assert kept(cluster)[0] == (
        "its 1 result (3 MB) does not fit at home: 2.5 MB of home_limit=5 MB are taken; "
        "raise home_limit or release futures"
    )
    assert len(cluster.runners) == 1
    assert cluster.home.memory + cluster.home.disk <= 5_000_000
    assert len(large.result()) == 3_000_000
    assert [len(a) for a in client.gather(small)] == [500_000, 2_000_000]
    del small
    wait_for(lambda: gone(cluster), what="there is room now")
    assert len(large.result()) == 3_000_000


def several(cluster: Any, client: Any, n: int) -> list[str]:
    """Have that many idle runners; their addresses, in the order of their names."""
    client.gather(client.map(lambda i: time.sleep(0.1), range(n), pure=False))
    wait_for(lambda: len(cluster.observed) == n)
    return [cluster.scheduler.aliases[name] for name in sorted(cluster.observed)]


def test_of_several_those_go_whose_results_fit(flame: Any) -> None:
    cluster, client = flame(max=4, idle_timeout="10m", home_limit="5 MB")
    a, b, c, d = several(cluster, client, 4)
    futures = [
        client.submit(array, size, workers=[address], pure=False)
        for address, size in [(a, 4), (a, 0.2), (b, 2), (c, 2.5)]
    ]
    client.gather(futures)
    stay = cluster.sync(cluster.home.retire, [a, b, c, d, "tcp://127.0.0.1:1"])
    assert stay == {
        a: "its 2 results (4.2 MB) do not fit at home: 4.5 MB of home_limit=5 MB are "
        "taken; raise home_limit or release futures"
    }
    assert set(cluster.scheduler.workers) == {a} | cluster.scheduler.resting
    assert cluster.home.held == 2
    assert [len(x) for x in client.gather(futures)] == [4_000_000, 200_000, 2_000_000, 2_500_000]


def test_a_result_that_is_larger_than_it_looked_does_not_pass_the_limit(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="10m", home_limit="1 MB")
    (address,) = several(cluster, client, 1)

    class Deep:
        def __init__(self) -> None:
            self.hidden = bytes(3_000_000)

        def __sizeof__(self) -> int:
            return 10

    future = client.submit(Deep)
    wait_for(future.done)
    (why,) = cluster.sync(cluster.home.retire, [address]).values()
    assert "home_limit" in why
    assert cluster.home.held == 0
    assert len(future.result().hidden) == 3_000_000


@contextlib.contextmanager
def full_disk(free: int) -> Iterator[None]:
    """The operating system refuses to write more than this to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_the_disk_is_full_the_runner_stays_and_nothing_is_lost(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = ResultStore.settle

    async def settle(store: ResultStore) -> None:
        try:
            await stock(store)
        finally:
            # The runner's copy must not be taken for one too many while home may refuse its own.
            cluster.scheduler.extensions["amm"].run_once()

    monkeypatch.setattr(ResultStore, "settle", settle)
    with dask.config.set({"flame.home.memory": "3 MB"}):
        cluster, client = flame(max=2, idle_timeout="10m")
        a, b = several(cluster, client, 2)
        small = client.submit(array, 0.5, workers=[a])
        large = client.map(array, [1, 2, 2, 1], workers=[b], pure=False)
        client.gather([small, *large])
        with full_disk(100_000):
            stay = cluster.sync(cluster.home.retire, [a, b])
            assert set(stay) == {b}
            assert stay[b].startswith("4 results could not be copied: OSError: ")
            assert "flame.home.memory" in stay[b]
            assert not stored(cluster)
            wait_for(lambda: cluster.home.memory <= 3_000_000)
            assert [len(x) for x in client.gather(large)] == [1e6, 2e6, 2e6, 1e6]
        assert cluster.sync(cluster.home.retire, [b]) == {}
        assert cluster.home.disk > 0
        assert [len(x) for x in client.gather([small, *large])] == [5e5, 1e6, 2e6, 2e6, 1e6]


def test_the_removal_of_a_copy_is_reported_when_a_new_one_has_replaced_it(
    flame: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stock = resting.HomeWorker.batched_send
    under_way: list[Any] = []
    removals: list[Any] = []

    def late(worker: Any, msg: Any) -> None:
        def arrive() -> None:
            stock(worker, msg)
            under_way.remove(msg)

        under_way.append(msg)
        if msg["op"] == "release-worker-data":
            removals.append(msg)
        worker.loop.call_later(0.3, arrive)

    def counted(mb: float) -> Any:
        with (tmp_path / "runs").open("a") as f:
            f.write("x")
        return array(mb)

    with dask.config.set({"flame.home.memory": "1 MB"}):
        cluster, client = flame(max=1, idle_timeout="10m")
        (address,) = several(cluster, client, 1)
        futures = client.map(counted, [1, 1], pure=False)
        client.gather(futures)
        monkeypatch.setattr(resting.HomeWorker, "batched_send", late)
        with full_disk(100_000):
            assert set(cluster.sync(cluster.home.retire, [address])) == {address}
        assert cluster.sync(cluster.home.retire, [address]) == {}
        wait_for(lambda: removals and not under_way, what="all reports have arrived")
        client.sync(client.scheduler.identity)
        assert [len(x) for x in client.gather(futures)] == [1e6, 1e6]
        assert (tmp_path / "runs").read_text() == "xx"


# Whatever happens meanwhile


def test_a_busy_runner_is_removed_all_the_same_and_its_call_runs_elsewhere(
    flame: Any, tmp_path: Path
) -> None:
    cluster, client = flame(max=2, idle_timeout="10m")
    a, b = several(cluster, client, 2)

    def call(path: Path) -> str:
        with path.open("a") as f:
            f.write("x")
        while not (path.parent / "go").exists():
            time.sleep(0.01)
        return str(get_worker().name)

    result = client.submit(bytes, 1000, workers=[a])
    result.result()
    running = client.submit(call, tmp_path / "calls", workers=[a, b])
    wait_for_text(tmp_path / "calls")
    on = next(ws.address for ws in cluster.scheduler.workers.values() if ws.processing)
    assert cluster.sync(cluster.home.retire, [on]) == {}
    assert on not in cluster.scheduler.workers
    wait_for(lambda: (tmp_path / "calls").read_text() == "xx")
    (tmp_path / "go").touch()
    assert running.result(timeout=60)
    assert result.result(timeout=60) == bytes(1000)


def begin(cluster: Any, addresses: list[str]) -> Any:
    loop = cluster.loop.asyncio_loop
    return asyncio.run_coroutine_threadsafe(cluster.home.retire(addresses), loop)


def frozen(client: Any, address: str) -> int:
    pid = client.run(os.getpid, workers=[address])[address]
    os.kill(pid, signal.SIGSTOP)
    return int(pid)


def test_a_runner_killed_in_the_middle_is_gone_and_its_calls_run_again(flame: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="10m")
    a, b = several(cluster, client, 2)
    anywhere = {"workers": [a, b], "allow_other_workers": True, "pure": False}
    lost, safe = (client.submit(array, n, **anywhere) for n in (1, 2))
    client.gather([lost, safe])
    holder = next(iter(cluster.scheduler.tasks[lost.key].who_has)).address
    pid = frozen(client, holder)
    retiring = begin(cluster, [a, b])
    if holder == a:
        wait_for(lambda: b not in cluster.scheduler.workers, what="the other is not held up")
    wait_for(lambda: cluster.home._traffic._now > 0, what="it is being copied")
    os.kill(pid, signal.SIGKILL)
    assert retiring.result(60) == {}
    assert [len(x) for x in client.gather([lost, safe])] == [1_000_000, 2_000_000]


def test_a_frozen_runner_stays_and_does_not_hold_up_others(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, client = flame(max=2, idle_timeout="10m")
    a, b = several(cluster, client, 2)
    futures = [client.submit(array, 1, workers=[w], pure=False) for w in (a, b)]
    client.gather(futures)
    monkeypatch.setattr(resting, "SILENT", 2.0)
    pid = frozen(client, a)
    retiring = begin(cluster, [a, b])
    wait_for(lambda: b not in cluster.scheduler.workers)
    (why,) = retiring.result(60).values()
    assert (
        why
        == "1 result could not be copied: TimeoutError: no sign of life from their runner for 4 s"
    )
    os.kill(pid, signal.SIGCONT)
    assert [len(x) for x in client.gather(futures)] == [1_000_000] * 2
    monkeypatch.undo()
    assert cluster.sync(cluster.home.retire, [a]) == {}
    assert [len(x) for x in client.gather(futures)] == [1_000_000] * 2


def test_a_frozen_runner_that_is_given_up_meanwhile_is_not_waited_for(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="10m")
    (a,) = several(cluster, client, 1)
    future = client.submit(array, 1)
    future.result()
    pid = frozen(client, a)
    retiring = begin(cluster, [a])
    wait_for(lambda: cluster.home._traffic._now > 0)
    cluster.sync(cluster.scheduler.remove_worker, a, stimulus_id="test")
    assert retiring.result(60) == {}
    os.kill(pid, signal.SIGKILL)
    assert len(future.result(timeout=60)) == 1_000_000


def test_who_cannot_take_a_result_does_not_keep_it_from_others(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resting, "_PATIENCE", 0.2)
    monkeypatch.setattr(resting, "UNDER_WAY", 1_000_000)
    cluster, client = flame(max=2, idle_timeout="10m")
    a, b = several(cluster, client, 2)
    future = client.submit(array, 20, workers=[a])
    future.result()
    assert cluster.sync(cluster.home.retire, [a]) == {}
    pid = frozen(client, b)
    length = client.submit(len, future, workers=[b], allow_other_workers=True)
    wait_for(lambda: any(ws.processing for ws in cluster.scheduler.workers.values()))
    assert len(future.result(timeout=60)) == 20_000_000
    os.kill(pid, signal.SIGCONT)
    assert length.result(timeout=60) == 20_000_000


def test_what_is_released_or_computed_anew_while_it_comes_home(flame: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="10m")
    a, b = several(cluster, client, 2)
    released, other = client.map(array, [1, 2], workers=[a], pure=False)
    again = client.submit(lambda: "old", key="again", workers=[a])
    client.gather([released, other, again])
    pid = frozen(client, a)
    retiring = begin(cluster, [a])
    wait_for(lambda: cluster.home._traffic._now > 0)
    key = released.key
    released.release()
    again.release()
    wait_for(lambda: not {key, "again"} & set(cluster.scheduler.tasks))
    again = client.submit(lambda: "new", key="again", workers=[b])
    assert again.result(timeout=60) == "new"
    os.kill(pid, signal.SIGCONT)
    assert retiring.result(60) == {}
    wait_for(lambda: cluster.home.held == 1)
    assert len(other.result()) == 2_000_000
    assert cluster.sync(cluster.home.retire, [b]) == {}
    assert again.result() == "new"
    assert cluster.home.held == 2


def test_a_name_used_again_and_again_never_gives_an_old_result(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="50ms")
    for i in range(8):
        future = client.submit(lambda i: i, i, key="same")
        assert future.result(timeout=60) == i
        if i % 2:
            wait_for(lambda: gone(cluster) and cluster.home.held == 1)
            assert future.result(timeout=60) == i
        future.release()
        wait_for(lambda: "same" not in cluster.scheduler.tasks)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_closing_in_the_middle_leaves_nothing(flame: Any, after: float) -> None:
    with dask.config.set({"flame.home.memory": "1 MB"}):
        cluster, client = flame(max=2, idle_timeout="10m")
        addresses = several(cluster, client, 2)
        futures = client.map(array, [30, 0.5] * 6, pure=False)
        wait_for(lambda: all(f.done() for f in futures))
        cluster.loop.add_callback(cluster.home.retire, addresses)
        time.sleep(after)  # at different points of it, each as good as any other
        client.close()
        cluster.close()
        assert cluster.backend.scratch is None


def test_closing_while_a_frozen_runner_is_waited_for(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="10m", shutdown_timeout="2s")
    (a,) = several(cluster, client, 1)
    future = client.submit(array, 1)
    future.result()
    frozen(client, a)
    retiring = begin(cluster, [a])
    wait_for(lambda: cluster.home._traffic._now > 0)
    client.close()
    cluster.close()
    assert retiring.done()


def test_home_is_not_opened_again_once_it_is_closed(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="10m")
    (a,) = several(cluster, client, 1)
    future = client.submit(bytes, 10)
    future.result()
    cluster.sync(cluster.home.close)
    assert cluster.sync(cluster.home.retire, [a]) == {
        a: "1 result could not be copied: RuntimeError: home is closed"
    }
    future.release()
    wait_for(lambda: future.key not in cluster.scheduler.tasks)
    assert cluster.sync(cluster.home.retire, [a]) == {}


# What a client may ask for


def test_restart_empties_home(flame: Any) -> None:
    with dask.config.set({"flame.home.memory": "1 MB"}):
        cluster, client = flame(max=1, idle_timeout="100ms")
        futures = client.map(array, [0.5] * 5, pure=False)
        wait_for(lambda: gone(cluster) and cluster.home.held == 5 and stored(cluster))
        client.restart()
        assert all(f.status == "cancelled" for f in futures)
        wait_for(lambda: not cluster.scheduler.resting and not stored(cluster))
        wait_for(lambda: cluster.home.held == 0)
        again = client.submit(array, 0.5, pure=False)
        wait_for(lambda: gone(cluster) and cluster.home.held == 1)
        assert len(again.result()) == 500_000


def test_cancel_frees_what_is_at_home(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms")
    futures = client.map(array, [0.5] * 3, pure=False)
    wait_for(lambda: gone(cluster) and cluster.home.held == 3)
    client.cancel(futures[:2])
    wait_for(lambda: cluster.home.held == 1)
    assert len(futures[2].result()) == 500_000


def test_replicating_and_rebalancing_leave_home_alone(flame: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="10m")
    a, b = several(cluster, client, 2)
    future, others = client.submit(array, 1, workers=[a]), client.map(array, [1] * 5, workers=[b])
    client.gather([future, *others])
    assert cluster.sync(cluster.home.retire, [a]) == {}
    (at_home,) = cluster.scheduler.resting
    assert client.who_has([future]) == {future.key: (at_home,)}
    client.rebalance()
    client.rebalance([future, *others])
    client.replicate([future, *others])
    assert set(client.who_has([future])[future.key]) == {at_home, b}
    assert all(client.who_has([f])[f.key] == (b,) for f in others)
    client.replicate([future], n=1, workers=[b])
    assert cluster.home.held == 1
    with pytest.raises(ValueError, match="delete data"):
        client.replicate(others, workers=[at_home])
    assert cluster.home.held == 1
    assert len(future.result()) == 1_000_000


def test_what_is_at_home_stays_there_when_a_runner_has_it_too(flame: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="10m")
    a, b = several(cluster, client, 2)
    data = client.submit(array, 1, workers=[a])
    data.result()
    assert cluster.sync(cluster.home.retire, [a]) == {}
    (at_home,) = cluster.scheduler.resting
    assert client.submit(len, data, workers=[b]).result(timeout=60) == 1_000_000
    assert set(client.who_has([data])[data.key]) == {at_home, b}
    client.amm.run_once()
    wait_for(lambda: client.who_has([data])[data.key] == (at_home,))
    os.kill(client.run(os.getpid)[b], signal.SIGKILL)
    assert len(data.result(timeout=60)) == 1_000_000


def test_actors_are_not_copied(flame: Any) -> None:
    cluster, client = flame(max=1, concurrency=2, idle_timeout="10m")
    (a,) = several(cluster, client, 1)
    actor = client.submit(Counted, actor=True)
    kept_result = client.submit(bytes, 10)
    assert kept_result.result() == bytes(10)
    actor.result()
    assert cluster.sync(cluster.home.retire, [a]) == {}
    assert cluster.home.held == 1
    assert kept_result.result() == bytes(10)


def test_the_limit_is_a_size(flame: Any) -> None:
    with pytest.raises(PoolError, match='write home_limit="16 GiB"'):
        FlameCluster(home_limit="much")
    with (
        dask.config.set({"flame.home.limits": 1}),
        pytest.raises(PoolError, match=r"did you mean flame\.home\.limit"),
    ):
        FlameCluster()


SCRIPT = """
import dask, time, numpy as np
from dask.distributed import Client
from dask_flame import FlameCluster

if __name__ == "__main__":
    dask.config.set({"flame.home.memory": "1 MB"})
    cluster = FlameCluster(max=1, idle_timeout="100ms", dashboard_address=None)
    client = Client(cluster)
    futures = client.map(np.ones, [100_000] * 5, pure=False)
    while cluster.home.disk < 3_000_000:
        time.sleep(0.01)
    %s
"""


@pytest.mark.parametrize("end", ["pass", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_files_go_with_a_driver_that_closes_nothing(tmp_path: Path, end: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT % end)
    (tmp_path / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
    )
    assert done.returncode == (0 if end == "pass" else -signal.SIGKILL), done.stdout.decode()
    assert b"Traceback" not in done.stdout
    wait_for(lambda: not list((tmp_path / "temporary").glob("dask-flame-*")))
    assert not list((tmp_path / "temporary").rglob("results"))


def at_rest(cluster: Any, number: int) -> list[Path]:
    """Files of so many results, when their runners have gone."""
    wait_for(lambda: gone(cluster) and cluster.home.held == number, what="they are at home")
    wait_for(lambda: cluster.home.memory == 0, what="they are on disk")
    return stored(cluster)


def spoil(file: Path, how: str) -> None:
    if how == "removed":
        file.unlink()
    elif how == "cut short":
        os.truncate(file, 10)
    elif how == "lengthened":
        with file.open("ab") as f:
            f.write(b"x")
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["removed", "cut short", "lengthened", "written over"])
def test_a_result_whose_file_was_spoilt_is_made_again(flame: Any, tmp_path: Path, how: str) -> None:
    with dask.config.set({"flame.home.memory": "64 KiB"}):
        cluster, client = flame(max=2, idle_timeout="100ms")
        runs = tmp_path / "runs"

        def counted(i: int) -> Any:
            with runs.open("a") as f:
                f.write(f"{i}\n")
            return np.full(50_000, i)

        futures = client.map(counted, range(4))
        with dask.annotate(rerun=False):
            once = client.submit(counted, 4)
        scattered = client.scatter(np.full(50_000, 5), hash=False)
        for file in at_rest(cluster, 6):
            spoil(file, how)
        # By another call, by the Client, and again by both at a time.
        assert client.submit(np.sum, futures[0]).result(timeout=60) == 0
        assert futures[1].result(timeout=60).sum() == 50_000
        assert [int(a[0]) for a in client.gather(futures)] == [0, 1, 2, 3]
        said = {"removed": "was removed", "written over": "holds something else"}
        with pytest.raises(RunnerLost, match=said.get(how, "has another length")) as lost:
            once.result(timeout=60)
        assert str(lost.value).endswith("it is not run again (rerun=False)")
        with pytest.raises(FutureCancelledError, match="scatter it again"):
            scattered.result(timeout=60)
        assert sorted(map(int, runs.read_text().split())) == [0, 0, 1, 1, 2, 2, 3, 3, 4]
        assert any("the result of" in e.reason for e in cluster.events if e.kind == "lost")


def test_results_outlive_supervisors(flame: Any, tmp_path: Path) -> None:
    with dask.config.set({"flame.home.memory": "64 KiB"}):
        cluster, client = flame(max=2, idle_timeout="100ms")
        runs = tmp_path / "runs"

        def counted(i: int) -> Any:
            with runs.open("a") as f:
                f.write(f"{i}\n")
            return np.full(50_000, i)

        futures = client.map(counted, range(4))
        files = at_rest(cluster, 4)
        for _ in range(2):
            supervisor = cluster.backend._supervisor
            supervisor.kill()
            # It is followed by another, though nothing boots: one has to see to the folder.
            wait_for(
                lambda g=supervisor: cluster.backend._supervisor not in (None, g),
                what="another supervisor",
            )
            assert client.submit(int, 7, pure=False).result(timeout=60) == 7
            assert [int(a[0]) for a in client.gather(futures)] == [0, 1, 2, 3]
        assert all(file.exists() for file in files)
        assert sorted(map(int, runs.read_text().split())) == [0, 1, 2, 3]
        folder = Path(cluster.backend.folder)
    client.close()
    cluster.close()
    assert not folder.exists()


def test_a_cleaner_of_temporary_files_that_heeds_locks_leaves_results_alone(flame: Any) -> None:
    cluster, _ = flame(max=1)
    descriptor = os.open(cluster.backend.folder, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as systemd-tmpfiles does
    finally:
        os.close(descriptor)
