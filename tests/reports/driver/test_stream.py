"""stream() gives all that calls report, as they report it, and ends when they do."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import threading
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import dask_flame
from dask_flame import FlameCluster, FlameError, Report, Reports, stream
from dask_flame.reports import Change, ReportStore
from dask_flame.reports.driver.pending import PendingReports, Reader
from dask_flame.reports.driver.stream import _Inbox
from dask_flame.reports.wire import Batch
from tests.reports.driver.stream_calls import dies_once, go, train, waits
from tests.reports.driver.test_replica import stock, there
from tests.support.waiting import wait_for

# Reading from a store, at any speed

acts = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["report", "report", "report", "again", "read"]),
    st.integers(1, 60),
)


class Read:
    """A store, and somebody who reads what is reported when told to."""

    def __init__(self, limit: int) -> None:
        self.store = ReportStore(points=200)
        self.pending = PendingReports(limit)
        self.reader = Reader()
        self.got: dict[tuple[Any, int], list[Report]] = defaultdict(list)
        self.store.subscribe(self.pending.add)

    def take(self) -> None:
        item = self.pending.take()
        if isinstance(item, Change):
            reports = self.reader.fresh(item)
        else:
            share, call = self.pending.share, self.store.get(item)
            assert call is not None
            reports = self.reader.stored(call, share)
        for report in reports:
            self.got[report.key, report.attempt].append(report)


def play(read: Read, acts: list[tuple[str, str, int]]) -> dict[tuple[str, int], list[float]]:
    """Report and read; what was reported."""
    made: dict[tuple[str, int], list[float]] = defaultdict(list)
    attempts, clock = dict.fromkeys("abc", 0), 0
    for key, what, n in acts:
        if what == "read":
            for _ in range(min(n, len(read.pending))):
                read.take()
            continue
        attempts[key] += what == "again" or not attempts[key]
        before = made[key, attempts[key]]
        steps = range(len(before), len(before) + n)
        values = [float(i * 7919 % 101) for i in steps]
        times = [float(clock + i) for i in range(n)]
        clock += n
        run = str(attempts[key])
        read.store.add(Batch(key, run, "r0", False, steps, times, {"loss": values}))
        before += values
    while read.pending:
        read.take()
    return made


@pytest.mark.unit
@given(st.lists(acts, max_size=60))
def test_who_reads_fast_enough_gets_everything(acts: list[tuple[str, str, int]]) -> None:
    read = Read(100_000)
    made = play(read, acts)
    for run, values in made.items():
        assert [r.values["loss"] for r in read.got[run]] == values
        assert [r.step for r in read.got[run]] == list(range(len(values)))
        assert not any(r.thinned for r in read.got[run])
    assert set(read.got) <= set(made)


@pytest.mark.unit
@given(st.lists(acts, max_size=60), st.integers(1, 300))
def test_who_reads_slowly_is_told_what_was_thinned(
    acts: list[tuple[str, str, int]], limit: int
) -> None:
    read = Read(limit)
    made = play(read, acts)
    for run, values in made.items():
        got = read.got[run]
        assert all(a.step < b.step for a, b in pairwise(got))
        assert all(r.values["loss"] == values[r.step] for r in got)
    for key in {key for key, _ in made}:
        run = max(run for run in made if run[0] == key)
        assert read.got[run][-1].step == len(made[run]) - 1
        assert sum(1 + r.thinned for r in read.got[run]) == len(made[run])


class _State:
    """A future that is pending until the client hears of the end of its call."""

    key, status = "a", "pending"

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def wait(self) -> None:
        await self.ended.wait()


class _Source:
    """A store that has all reports."""

    def __init__(self, store: ReportStore) -> None:
        self.store = store

    async def caught_up(self) -> None:
        """Nothing is missing."""


@pytest.mark.unit
@pytest.mark.parametrize("again", [False, True])
def test_a_call_that_ended_before_the_client_knows_is_read(again: bool) -> None:
    async def steps() -> list[int]:
        store = ReportStore()
        store.add(Batch("a", "1", "r0", False, [0, 1], [0.0, 1.0], {"loss": [0.5, 0.4]}))
        store.end("a", "done", 2.0)
        inbox, state = _Inbox(["a"], 100), _State()
        following = asyncio.create_task(inbox.follow(None, [state], _Source(store)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        if again:  # the future is of another call with the same key
            store.begin("a", 3.0)
            store.add(Batch("a", "2", "r0", False, [7], [4.0], {"loss": [0.3]}))
            store.end("a", "done", 5.0)
        state.ended.set()
        await following
        found: list[int] = []
        while inbox.pending:
            found += [report.step for report in inbox.take()]
        return found

    assert asyncio.run(steps()) == ([7] if again else [0, 1])


@pytest.mark.unit
def test_what_is_thinned_keeps_its_shape() -> None:
    read = Read(150)
    values = [float(i * 7919 % 1009) for i in range(1000)]
    values[537], values[731] = 5000.0, -5000.0
    read.store = ReportStore()
    read.store.subscribe(read.pending.add)
    for i in range(0, 1000, 10):
        steps = range(i, i + 10)
        columns, rows = {"loss": values[i : i + 10], "rare": [float(i)]}, {"rare": [0]}
        times = [float(s) for s in steps]
        read.store.add(Batch("a", "1", "r0", False, steps, times, columns, rows=rows))
    assert len(read.pending) < 20
    while read.pending:
        read.take()
    got = {r.step: r for r in read.got["a", 1]}
    assert len(got) < 500
    assert {0, 537, 731, 999} <= set(got)
    assert set(got[0].values) == {"loss", "rare"}
    assert set(got[999].values) == {"loss"}


# On clusters


@pytest.fixture(params=["stock", "flame"])
def client(request: pytest.FixtureRequest) -> Any:
    """Of a cluster whose calls run in this process, or of a FlameCluster."""
    if request.param == "stock":
        with stock(Reports()) as cluster, Client(cluster) as client:
            yield client
    else:
        with FlameCluster(max=2, dashboard_address=None) as cluster, Client(cluster) as client:
            yield client


def steps(reports: Any) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = defaultdict(list)
    for report in reports:
        found[report.task].append(report.step)
    return dict(found)


@pytest.mark.process
def test_all_is_given_before_it_ends(client: Client) -> None:
    futures = [
        client.submit(train, 30, key="done"),
        client.submit(train, 700, raises=True, key="failed"),
        client.submit(train, 0, key="silent"),
        client.submit(train, 20, seconds=0.03, key="slow"),
    ]
    got = list(stream(futures))
    assert all(future.done() for future in futures)
    want = {"done": list(range(30)), "failed": list(range(700)), "slow": list(range(20))}
    assert steps(got) == want
    one = next(r for r in got if r.task == "slow")
    assert (one.key, one.values, one.attempt, one.thinned) == ("slow", {"loss": 0.0}, 1, 0)
    assert one.runner == there(client.cluster).calls["slow"].runner
    assert abs(one.time - time.time()) < 60
    # What has ended can be streamed as well.
    assert steps(stream(futures)) == want
    assert not dask_flame.reports_of(client)._subscribers


@pytest.mark.process
def test_reports_come_as_they_are_made(client: Client) -> None:
    future = client.submit(train, 60, seconds=0.05, key="slow")
    before = [not future.done() for _ in stream(future)]
    assert before.count(True) > 5


@pytest.mark.process
def test_calls_that_are_cancelled_end(client: Client) -> None:
    future = client.submit(train, 200, seconds=0.05, key="cancelled")
    got = []
    for report in stream([future]):
        got.append(report.step)
        if len(got) == 3:
            future.cancel()
    assert got == list(range(len(got)))
    assert len(got) < 190
    wait_for(lambda: not any(client.processing().values()))


@pytest.mark.process
def test_what_a_killed_runner_had_sent_is_given(flame: Any, tmp_path: Path) -> None:
    cluster, client = flame(max=2)
    future = client.submit(dies_once, str(tmp_path / "flag"), key="call")
    got = []
    for report in stream([future]):
        got.append((report.attempt, report.step, report.runner))
        if len(got) == 3:
            (pid,) = client.run(os.getpid).values()
            os.kill(pid, 9)
    again = future.result()
    assert got == [(1, i, "runner-1") for i in range(3)] + [(2, i, again) for i in range(3)]
    (first,) = cluster.reports.calls["call"].earlier
    assert (first.runner, first.state, len(first.series["loss"])) == ("runner-1", "lost", 3)


@pytest.mark.process
def test_who_is_slow_holds_up_nobody() -> None:
    with stock(Reports()) as cluster, Client(cluster) as client:
        future = client.submit(train, 20_000, key="call")
        reports = stream([future], limit=300)
        future.result()
        assert len(reports._inbox.pending) < 20
        got = list(reports)
        assert (got[0].step, got[-1].step) == (0, 19_999)
        assert sum(1 + r.thinned for r in got) == 20_000
        assert len(got) < 2_000


@pytest.mark.process
def test_it_ends_when_nobody_reads_it_any_more() -> None:
    go.clear()
    with stock(Reports()) as cluster, Client(cluster) as client:
        futures = client.map(waits, [2, 3], key=["a", "b"])
        store = dask_flame.reports_of(client)
        for report in stream(futures):
            assert report.step == 0
            break
        wait_for(lambda: not store._subscribers)
        with stream(futures) as held:
            next(held)
            assert store._subscribers
        assert not store._subscribers
        assert "2 calls, ended" in repr(held)
        # It held the futures: without it, and without ours, nobody wants the calls.
        del futures, held, report
        gc.collect()
        wait_for(lambda: not client.futures)
        go.set()
        wait_for(lambda: not any(client.processing().values()))


@pytest.mark.process
def test_it_ends_with_its_client() -> None:
    go.clear()
    with stock(Reports()) as cluster:
        client = Client(cluster, set_as_default=False)
        future = client.submit(waits, 2)
        reports = stream([future])
        assert next(reports).step == 0
        calls = dask_flame.reports_of(client).calls
        wait_for(lambda: calls[future.key].series["loss"].made == 2)
        closer = threading.Timer(0.2, client.close)
        closer.start()
        assert [r.step for r in reports] == [1]
        closer.join()
        go.set()
        wait_for(lambda: not any(w.state.executing for w in cluster.workers.values()))


@pytest.mark.process
def test_a_key_that_runs_again_gives_what_it_reports_now() -> None:
    with stock(Reports()) as cluster, Client(cluster) as client:
        go.set()
        client.submit(waits, 2, key="call").result()
        wait_for(lambda: not client.futures)
        go.clear()
        future = client.submit(waits, 3, key="call")
        reports = stream([future])
        go.set()
        assert {(r.attempt, r.step) for r in reports} == {(2, i) for i in range(3)}


@pytest.mark.process
@pytest.mark.asyncio
async def test_in_async_for() -> None:
    async with (
        LocalCluster(
            n_workers=1,
            processes=False,
            asynchronous=True,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        future = client.submit(train, 5, key="early")
        with pytest.raises(FlameError, match="no Reports plugin"):
            async for _ in stream([future]):
                pass
        await client.register_plugin(Reports())
        futures = [client.submit(train, n, seconds=0.01, key=f"call-{n}") for n in (3, 40)]
        got = [r async for r in stream(futures)]
        assert steps(got) == {"call-3": list(range(3)), "call-40": list(range(40))}
        with pytest.raises(FlameError, match="async for"):
            next(stream(client.submit(train, 3, seconds=0.3, key="late")))


@pytest.mark.process
def test_in_async_for_on_another_event_loop(client: Client) -> None:
    future = client.submit(train, 30, seconds=0.01, key="call")

    async def read() -> list[int]:
        return [r.step async for r in stream(future)]

    assert asyncio.run(read()) == list(range(30))


@pytest.mark.process
def test_what_is_refused() -> None:
    with stock() as cluster, Client(cluster) as one, Client(cluster) as two:
        futures = [one.submit(math.sqrt, 4), two.submit(math.sqrt, 9)]
        with pytest.raises(FlameError, match="of 2 clients"):
            stream(futures)
        with pytest.raises(FlameError, match=r"client.register_plugin\(dask_flame.Reports"):
            stream(futures[:1])
        with pytest.raises(TypeError, match=r"not float \(futures=2\.0\); a line that works"):
            stream([2.0])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="limit=0"):
            stream(futures[:1], limit=0)
        assert list(stream([])) == []
