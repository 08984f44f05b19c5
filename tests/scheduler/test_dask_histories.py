"""What is over is forgotten: runners that are gone, calls that are done, names without end."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from distributed import Client, span

import dask_flame
from dask_flame.core.immediate_send import ImmediateSender
from dask_flame.history.boots import BootLog
from dask_flame.history.events import EventLog
from dask_flame.history.journal import BootFailed, Journal
from dask_flame.scheduler import dask_histories
from dask_flame.serialization.packed import PackedTask
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

#: These tests collect garbage, of whatever test this process has run before, too: what that has to
#: complain of is not theirs.
pytestmark = [
    pytest.mark.process,
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
    ),
]

SOAK = ROOT / "benchmarks" / "soak.py"


def large(n: int) -> bytes:
    dask_flame.report(n=n)
    return bytes(n)


def _living(kind: type) -> int:
    gc.collect()
    return sum(type(found) is kind for found in gc.get_objects())


def _gone(cluster: Any) -> None:
    """Runners come and go: one for each call that cannot share one."""
    wait_for(lambda: not cluster.fleets.members)


def test_runners_that_are_gone_leave_nothing_in_the_driver(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_histories, "_AFTER", 0.1)
    cluster, client = flame(max=4, idle_timeout="0.1s", single_use=True)
    scheduler = cluster.scheduler
    before, packed = _living(ImmediateSender), _living(PackedTask)
    for turn in range(3):
        results = client.gather(client.map(large, range(1000 * turn, 1000 * turn + 4)))
        assert list(map(len, results)) == list(range(1000 * turn, 1000 * turn + 4))
        _gone(cluster)
    assert sum(ledger.boots for ledger in cluster._history.usage.values()) >= 12
    # Their connections with all that was sent on them, their topics, and what waits for an hour.
    wait_for(lambda: _living(ImmediateSender) <= before + 1)
    wait_for(lambda: _living(PackedTask) <= packed)
    wait_for(lambda: len(scheduler._ongoing_background_tasks) < 8)
    asyncio.run_coroutine_threadsafe(_forget(scheduler), cluster.loop.asyncio_loop).result(40)
    # The home of results is a worker in the driver.
    assert {n for n in scheduler._broker._topics if "://" in n} <= set(scheduler.workers)
    wait_for(lambda: sum(map(len, client.rpc.available.values())) <= 2)
    # Reports are in the store, and nowhere else.
    assert len(scheduler._broker._topics[dask_flame.reports.wire.TOPIC].events) == 0
    assert len(cluster.reports) == 12


async def _forget(scheduler: Any) -> None:
    dask_histories.forget_worker(scheduler, "tcp://127.0.0.1:1")


def test_what_is_said_to_a_client_and_by_it_is_not_kept(flame: Any) -> None:
    cluster, client = flame(max=1)
    assert client.submit(len, bytes(50_000)).result() == 50_000
    (said,) = cluster.scheduler.client_comms.values()
    assert said.recent_message_log.maxlen == 0
    wait_for(lambda: client.scheduler_comm.recent_message_log.maxlen == 0)


def test_a_home_that_has_closed_is_forgotten_with_its_log(flame: Any) -> None:
    logger = logging.getLogger("distributed.worker")
    before = list(logger.handlers)
    cluster, client = flame(max=1, idle_timeout="0.1s")
    for turn in range(2):
        future = client.submit(large, 1000 + turn)
        assert len(future.result()) == 1000 + turn
        _gone(cluster)
        assert cluster.home.held == 1
        assert len(logger.handlers) == len(before) + 1
        del future
        # The handler holds what was logged, and that, by an error's frames, the home.
        wait_for(lambda: logger.handlers == before)


def test_spans_and_kinds_of_keys_have_a_most(flame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_histories, "MOST_SPANS", 8)
    monkeypatch.setattr(dask_histories, "MOST_PREFIXES", 10)
    monkeypatch.setattr(dask_histories, "MOST_CHANGES", 4)
    cluster, client = flame(max=1, concurrency=2)
    scheduler = cluster.scheduler
    kept = client.submit(abs, -5, key="kept_by_somebody")
    for turn in range(30):
        with span(f"turn {turn % 3}"):
            assert client.submit(abs, -turn, key=f"job{turn}_x").result() == turn
        assert client.submit(abs, -turn, pure=False).result() == turn
    spans = scheduler.extensions["spans"]
    assert len(spans.spans) <= 9
    assert len(scheduler.task_prefixes) <= 11
    assert "kept_by_somebody" in scheduler.task_prefixes
    indexed = sum(map(len, spans.spans_search_by_name.values()))
    assert indexed == len(spans.spans) == sum(map(len, spans.spans_search_by_tag.values()))
    assert len(scheduler.total_nthreads_history) <= 5
    # A group whose span was forgotten gets another one, and what runners measured is taken in.
    again = client.submit(abs, -7, key="kept_by_somebody-1")
    assert (again.result(), kept.result()) == (7, 5)

    assert spans.merge_all().id
    for address, ws in list(scheduler.workers.items()):
        spans.heartbeat(ws, {("execute", "no such span", "f", "cpu", "seconds"): 1.0})
        assert address in scheduler.workers


def test_what_is_noted_of_a_cluster_has_a_most() -> None:
    boots, log, journal = BootLog(), EventLog(), Journal()
    journal.subscribe(log.apply)
    for n in range(7_000):
        boots.asked([f"r-{n}"], "p", float(n), at=float(n))
        boots.apply(BootFailed(runner=f"r-{n}", why="why", seconds=0.5))
        journal.note("boot", "why", runners=[f"r-{n}"])
    assert (len(boots), len(log), len(journal)) == (1_000, 5_000, 5_000)
    assert log.counts == Counter(boot=7_000)


def test_the_soak_runs_and_finds_nothing_wrong() -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--minutes", "0.1", "--kill", "1", "--every", "0.05",
         "--counts", "--most", "1000"],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 wrong" in done.stdout
    assert "MB a minute in the second half" in done.stdout


def test_names_of_dasks_that_are_relied_on_are_there(client: Client) -> None:
    scheduler = client.cluster.scheduler
    assert isinstance(scheduler._ongoing_background_tasks, dask_histories.SoonDone)
    assert type(scheduler.extensions["spans"]) is dask_histories.Spans
    assert scheduler._deque_handler.deque.maxlen == dask_histories.MOST_LINES
    for pool in (client.rpc, scheduler.rpc):
        assert pool.semaphore._value == pool.limit - pool.open - pool._n_connecting


@pytest.fixture
def client(flame: Any) -> Client:
    _, client = flame(max=1)
    assert client.submit(abs, -1).result() == 1
    return client
