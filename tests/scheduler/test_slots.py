"""Concurrency c means c; nothing waits while a slot is free."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Event, as_completed, get_worker, wait, worker_client

import dask_flame
from tests.scheduler.slots_calls import whoami
from tests.support.stubborn import Stubborn
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def has_been_told(client: Any) -> None:
    """Return when the client has read all that the scheduler had to say to it until now.

    A client that submits a key again before it has read that the key was cancelled takes the new
    future for the cancelled one (`Client._handle_cancelled_keys` knows keys, not futures).
    """
    told = threading.Event()
    client.subscribe_topic("told", lambda _: told.set())
    # Until it is heard: an event may overtake the subscription, which goes another way.
    wait_for(lambda: client.log_event("told", "all before is read") or told.wait(0.1))
    client.unsubscribe_topic("told")


def most_at_once(spans: list[tuple[str, float, float]]) -> Counter[str]:
    """The largest number of calls that overlapped, by runner."""
    most: Counter[str] = Counter()
    for name, start, _ in spans:
        now = sum(n == name and a <= start < b for n, a, b in spans)
        most[name] = max(most[name], now)
    return most


@pytest.mark.parametrize(
    "concurrency",
    [
        pytest.param(1, marks=pytest.mark.shared_cluster(max=2)),
        pytest.param(3, marks=pytest.mark.shared_cluster(max=2, concurrency=3)),
    ],
)
@pytest.mark.parametrize("how", ["map", "one by one"])
def test_no_runner_has_more_calls_than_slots(shared: Any, concurrency: int, how: str) -> None:
    cluster, client = shared
    seen: Counter[str] = Counter()

    class Watch(threading.Thread):
        stop = False

        def run(self) -> None:
            while not self.stop:
                for ws in list(cluster.scheduler.workers.values()):
                    seen[ws.name] = max(seen[ws.name], len(ws.processing))
                time.sleep(0)

    watch = Watch(daemon=True)
    watch.start()
    if how == "map":
        futures = client.map(whoami, range(24), seconds=0.05, pure=False)
    else:
        futures = [client.submit(whoami, i, seconds=0.05, pure=False) for i in range(24)]
    spans = client.gather(futures)
    watch.stop = True
    watch.join()
    assert set(seen) == {"runner-1", "runner-2"}
    assert max(seen.values()) == concurrency
    assert max(most_at_once(spans).values()) == concurrency


def test_the_same_holds_for_calls_with_inputs(flame: Any) -> None:
    cluster, client = flame(min=3, max=3)
    client.wait_for_workers(3)
    inputs = client.map(whoami, range(3), pure=False)
    wait(inputs)
    # All inputs on one runner: stock Dask would send all of these calls there.
    cluster.sync(cluster.scheduler.gather_on_worker, *_all_on_first(cluster, inputs))
    spans = client.gather(
        [client.submit(whoami, i, after=inputs, seconds=0.3, pure=False) for i in range(3)]
    )
    assert len({name for name, _, _ in spans}) == 3


def _all_on_first(cluster: Any, futures: list[Any]) -> tuple[str, dict[Any, list[str]]]:
    tasks = cluster.scheduler.tasks
    return next(iter(cluster.scheduler.workers)), {
        f.key: [ws.address for ws in tasks[f.key].who_has] for f in futures
    }


def test_a_call_does_not_wait_behind_a_busy_runner(flame: Any) -> None:
    cluster, client = flame(max=2)
    gate = Event("gate", client=client)
    long = client.submit(gate.wait, key="long")
    wait_for(lambda: any(m.busy for m in cluster.runners.values()))
    short = client.submit(whoami, pure=False)
    assert short.result(timeout=60)[0] == "runner-2"
    assert not long.done()
    gate.set()
    long.result()


def test_runners_that_join_later_take_what_waits(flame: Any) -> None:
    cluster, client = flame(min=1, max=1)
    gate = Event("gate", client=client)
    futures = client.map(lambda i, gate: gate.wait() and get_worker().name, range(4), gate=gate)
    wait_for(lambda: any(m.busy for m in cluster.runners.values()))
    cluster.adapt(maximum=4)
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()) == 4)
    gate.set()
    assert len(set(client.gather(futures))) == 4


def test_calls_go_in_order_of_priority(shared: Any) -> None:
    cluster, client = shared
    gate = Event("gate", client=client)
    first = client.submit(gate.wait)
    wait_for(lambda: any(m.busy for m in cluster.runners.values()))
    low = [client.submit(time.time, pure=False, priority=-1) for _ in range(3)]
    high = [client.submit(time.time, pure=False, priority=1) for _ in range(3)]
    wait_for(lambda: cluster.scheduler.waiting() == 6)
    gate.set()
    first.result()
    order = client.gather(high), client.gather(low)
    assert max(order[0]) <= min(order[1])


@pytest.mark.shared_cluster(max=2)
def test_restricted_calls_wait_for_their_runner_and_block_nobody(shared: Any) -> None:
    cluster, client = shared
    gate = Event("gate", client=client)
    long = client.submit(gate.wait, workers=["runner-1"])
    wait_for(lambda: long.key in cluster.scheduler.tasks and cluster.runners["runner-1"].busy)
    bound = [client.submit(whoami, pure=False, workers=["runner-1"]) for _ in range(3)]
    loose = client.submit(whoami, pure=False, workers=["runner-1"], allow_other_workers=True)
    free = client.map(whoami, range(3), pure=False)
    assert {name for name, *_ in client.gather([*free, loose])} == {"runner-2"}
    assert not any(f.done() for f in bound)
    assert len(cluster.runners) == 2
    gate.set()
    assert {name for name, *_ in client.gather(bound)} == {"runner-1"}


def test_calls_that_no_runner_could_take_boot_none(flame: Any) -> None:
    cluster, client = flame(max=4)
    asks = client.submit(whoami, pure=False, resources={"unobtainium": 1})
    assert client.submit(whoami, pure=False).result(timeout=60)
    assert len([e for e in cluster.events if e.kind == "boot"]) == 1
    assert cluster.scheduler.waiting() == 1
    (said,) = wait_for(lambda: [e for e in cluster.events if e.kind == "waiting"])
    assert "what no runner of pool 'default' has (unobtainium=1)" in said.reason
    asks.cancel()
    wait_for(lambda: cluster.scheduler.waiting() == 0)


def test_a_call_that_secedes_gives_its_slot_back(shared: Any) -> None:
    _, client = shared

    def outer() -> int:
        with worker_client() as inner:
            return sum(inner.gather(inner.map(abs, [-1, -2, -3], pure=False)))

    assert client.submit(outer).result(timeout=60) == 6


def test_a_call_that_rejoins_has_its_slot_back(flame: Any, tmp_path: Path) -> None:
    cluster, client = flame(max=2)
    back, go = tmp_path / "back", tmp_path / "go"

    def outer() -> None:
        for _ in range(2):
            dask_flame.call(abs, -1)
            with worker_client() as inner:
                assert sorted(f.result() for f in as_completed(inner.map(abs, [-1, -2]))) == [1, 2]
        back.touch()
        while not go.exists():
            time.sleep(0.01)

    long = client.submit(outer)
    wait_for(back.exists)
    others = [client.submit(whoami, pure=False) for _ in range(3)]
    assert {name for name, *_ in client.gather(others)} == {"runner-2"}
    go.touch()
    long.result(timeout=60)
    assert cluster.scheduler.demand() == 0


def test_a_cancelled_call_holds_its_slot_until_its_thread_is_free(
    shared: Any, tmp_path: Path
) -> None:
    cluster, client = shared
    with Stubborn(tmp_path) as stubborn:
        cancelled = client.submit(stubborn.call)
        stubborn.has_begun()
        cancelled.cancel()
        wait_for(lambda: cluster.scheduler.load("runner-1").cancelled == 1)
        after = client.submit(whoami, pure=False)
        wait_for(lambda: cluster.scheduler.waiting() == 1)
        assert cluster.scheduler.load("runner-1").busy == 0
    assert after.result(timeout=60)[0] == "runner-1"
    wait_for(lambda: cluster.scheduler.load("runner-1").cancelled == 0)


def test_a_call_that_is_wanted_again_too_early_holds_nobody_up(flame: Any, tmp_path: Path) -> None:
    cluster, client = flame(max=1, concurrency=2)
    with Stubborn(tmp_path) as stubborn:
        with Stubborn(tmp_path) as busy:
            cancelled, other = client.submit(stubborn.call, key="again"), client.submit(busy.call)
            stubborn.has_begun()
            busy.has_begun()
            cancelled.cancel()
            wait_for(lambda: cluster.scheduler.load("runner-1").cancelled == 1)
            has_been_told(client)
            again = client.submit(int, key="again", priority=1)
            behind = client.submit(whoami)
            wait_for(lambda: cluster.scheduler.waiting() == 2)
        assert behind.result(timeout=60)[0] == "runner-1"
        assert not again.done()
    assert again.result(timeout=60) == 0
    assert other.result(timeout=60) == 0


@pytest.mark.shared_cluster(max=2)
def test_a_new_call_goes_past_a_cancelled_one_to_a_free_runner(shared: Any, tmp_path: Path) -> None:
    cluster, client = shared
    with Stubborn(tmp_path) as stubborn:
        first = client.submit(stubborn.call)
        stubborn.has_begun()
        held = wait_for(lambda: [name for name, m in cluster.runners.items() if m.busy])[0]
        first.cancel()
        names = {client.submit(whoami, pure=False).result(timeout=60)[0] for _ in range(6)}
        assert held not in names


def test_a_call_that_does_not_stop_is_not_waited_for_while_there_may_be_more_runners(
    flame: Any, tmp_path: Path
) -> None:
    cluster, client = flame(max=2)
    with Stubborn(tmp_path) as stubborn:
        cancelled = client.submit(stubborn.call)
        stubborn.has_begun()
        cancelled.cancel()
        assert client.submit(whoami, pure=False).result(timeout=60)[0] == "runner-2"
        assert cluster.scheduler.demand() == 0


def test_retries_reschedules_and_errors_give_their_slot_back(shared: Any, tmp_path: Path) -> None:
    cluster, client = shared

    def flaky(path: str) -> int:
        tries = Path(path)
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if len(tries.read_text()) < 3:
            raise ValueError("not yet")
        return len(tries.read_text())

    assert client.submit(flaky, str(tmp_path / "a"), retries=5).result(timeout=60) == 3
    with pytest.raises(ValueError, match="not yet"):
        client.submit(flaky, str(tmp_path / "b")).result(timeout=60)
    assert client.submit(int, 5).result(timeout=60) == 5
    wait_for(lambda: cluster.scheduler.demand() == 0)
    assert cluster.scheduler.load("runner-1").cancelled == 0


def test_graphs_and_actors_work_as_ever(flame: Any) -> None:
    # distributed's own check has it that an actor never waits for a worker, which it does on any
    # cluster that has none yet.
    with dask.config.set({"distributed.scheduler.validate": False}):
        _, client = flame(max=2)

    class Counter:
        n = 0

        def add(self, by: int) -> int:
            self.n += by
            return self.n

    counter = client.submit(Counter, actor=True).result(timeout=60)
    assert [counter.add(i).result() for i in (1, 2, 3)] == [1, 3, 6]
    total = dask.delayed(sum)([dask.delayed(abs)(-i) for i in range(20)])
    assert total.compute() == 190


def test_restart_forgets_all_and_goes_on(flame: Any) -> None:
    cluster, client = flame(min=1, max=2)
    gate = Event("gate", client=client)
    futures = client.map(lambda i, gate: gate.wait(), range(6), gate=gate)
    wait_for(lambda: any(m.busy for m in cluster.runners.values()))
    client.restart()  # stock would wait for workers that nobody wants
    assert {f.status for f in futures} == {"cancelled"}
    assert cluster.scheduler.waiting() == 0
    assert client.submit(int, 3).result(timeout=60) == 3


def test_array_collections_and_a_p2p_rechunk(flame: Any) -> None:
    da = pytest.importorskip("dask.array")
    _, client = flame(max=2, concurrency=2)
    x = da.ones((600, 600), chunks=(60, 600))
    y = x.rechunk((600, 60), method="p2p")
    assert client.compute((y + 1).sum()).result(timeout=60) == 2 * 600 * 600


def test_a_runner_that_is_lost_is_not_given_its_own_calls_again(flame: Any, tmp_path: Path) -> None:
    # A free slot beside the call that goes down with it.
    _, client = flame(min=1, max=1, concurrency=2)

    def once_more() -> str:
        if not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            os._exit(7)
        return str(get_worker().name)

    # More than outlives its runner.
    kept = client.submit(lambda: (*whoami(), bytes(100_000)), pure=False)
    wait(kept)
    used = client.submit(lambda before: before[0], kept, pure=False)
    assert used.result(timeout=60) == "runner-1"
    assert client.submit(once_more).result(timeout=60) == "runner-2"
    assert (
        client.submit(lambda before: before[0], kept, pure=False).result(timeout=60) == "runner-2"
    )
