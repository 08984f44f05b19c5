"""Runners that take no calls: paused by Dask, out of memory, held by actors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dask.config
import pytest

import dask_flame
from dask_flame.core.text import memory
from dask_flame.dashboard.pools.cards import why
from dask_flame.dashboard.pools.rows import count
from dask_flame.errors import RunnerLost
from dask_flame.scaling import runner_index
from tests.driver.control_loop_calls import (
    Counter,
    children,
    fill,
    leak_for,
    leak_until,
    one,
    started,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def kinds(cluster: Any) -> list[str]:
    return [event.kind for event in cluster.events]


def test_a_paused_runner_is_replaced_and_said_and_ended(flame: Any, tmp_path: Path) -> None:
    cluster, client = flame(max=2, memory="500 MB")
    done = client.submit(leak_until, 400, tmp_path / "go on")
    wait_for(lambda: "paused" in kinds(cluster))
    # Its own call goes on, and others have a runner that takes them.
    assert client.gather(client.map(one, range(4))) == [0, 1, 2, 3]
    assert "1 paused" in repr(cluster)
    (tmp_path / "go on").touch()
    assert done.result() == "done"
    wait_for(lambda: "runner-1" not in cluster.runners)
    (said,) = [e for e in cluster.events if e.kind == "paused"]
    assert "MB of 500 MB in use" in said.reason
    (retired,) = [e for e in cluster.events if e.kind == "retire"]
    assert "MB of 500 MB in use" in retired.reason
    assert "no call running for 2 s" in retired.reason
    assert done.result() == "done", "its result has come home"


def test_with_one_runner_at_most_calls_wait_for_the_paused_one_and_that_is_said(
    flame: Any, tmp_path: Path
) -> None:
    cluster, client = flame(max=1, memory="500 MB")
    done = client.submit(leak_until, 400, tmp_path / "go on")
    wait_for(lambda: "paused" in kinds(cluster))
    waiting = client.submit(one, 1)
    wait_for(lambda: cluster.scheduler.waiting())
    (pool,) = cluster._pools().pools
    said, bad = why(pool, count(pool.runners), [])
    assert "runner-1 takes none (paused by Dask: " in said
    assert bad
    (tmp_path / "go on").touch()
    assert waiting.result() == 1
    assert done.result() == "done"


def test_a_runner_that_dask_pauses_for_a_moment_stays(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_index, "PAUSED_FOR", 30.0)  # longer than a busy machine may take
    # Else Dask may write the result to disk, and go on, before it has told anybody of the pause.
    kept = {f"distributed.worker.memory.{what}": False for what in ("target", "spill")}
    with dask.config.set(kept):
        cluster, client = flame(max=1, memory="500 MB")
        big = client.submit(fill, 400)
        wait_for(lambda: "paused" in kinds(cluster))
    del big
    wait_for(lambda: [e for e in cluster.events if e.reason == "begins calls again"])
    assert client.submit(one, 1).result() == 1
    assert set(cluster.runners) == {"runner-1"}


def test_a_call_that_was_given_to_a_runner_as_it_paused_goes_elsewhere(flame: Any) -> None:
    cluster, client = flame(max=2, memory="2 GB")

    def pause_and_hold(dask_worker: Any) -> None:
        # A call that is given to it from now on does not begin.
        from distributed import Status

        dask_worker.memory_manager.memory_pause_fraction = False
        dask_worker.status = Status.paused

    assert client.submit(one, 0).result() == 0
    client.run(pause_and_hold, nanny=False)
    futures = client.map(one, range(1, 4))
    assert client.gather(futures) == [1, 2, 3]
    wait_for(lambda: "runner-1" not in cluster.runners)


def test_a_call_that_needs_more_than_the_limit_everywhere_fails_and_says_so(flame: Any) -> None:
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        cluster, client = flame(max=1, memory="400 MB")
        with pytest.raises(RunnerLost, match=r"ran out of memory \((\d+ MB|1\.\d GB) of 400 MB\)"):
            client.submit(leak_for, 1500, 600).result(timeout=60)
    lost = [e for e in cluster.events if e.kind == "lost"]
    assert len(lost) == 2
    assert all("ran out of memory (" in e.reason for e in lost)
    assert all("memory" in e.reason and "paused by Dask" not in e.reason for e in lost)


def test_processes_of_calls_count_and_what_they_share_counts_once(flame: Any) -> None:
    cluster, client = flame(max=1, memory="600 MB")
    # Five processes of 350 MB each, which is the same memory.
    assert client.submit(children, 300).result() == 7
    assert "lost" not in kinds(cluster)
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        future = client.submit(started, 900)
        wait_for(lambda: "lost" in kinds(cluster))
        (lost, *_) = [e for e in cluster.events if e.kind == "lost"]
        assert "ran out of memory (" in lost.reason
        future.cancel()


def test_the_limit_is_off_where_dask_is_not_to_end_workers(flame: Any) -> None:
    off = {
        "distributed.worker.memory.terminate": False,
        "distributed.worker.memory.pause": False,
    }
    with dask.config.set(off):
        cluster, client = flame(max=1, memory="200 MB")
        assert client.submit(leak_for, 400, 2).result() == "done"
    assert "lost" not in kinds(cluster)


def test_runners_that_are_too_small_from_the_start_are_tried_ever_more_rarely(flame: Any) -> None:
    # With what makes them larger than the least memory that may be said; without what this module
    # imports.
    preload = ["pandas"]
    _, client = flame(max=1, preload=preload)
    own = client.submit(eval, "__import__('psutil').Process().memory_info().rss").result()
    # It is paused before it has a call. Where calls wait, the first one is given to it at once.
    cluster, _ = flame(min=1, max=1, memory=int(1.05 * own), preload=preload)
    wait_for(lambda: kinds(cluster).count("retire") >= 2)
    assert cluster.fleets.fleets["default"].failures >= 2
    for event in cluster.events:
        if event.kind in ("paused", "retire"):
            assert re.search(r"paused by Dask: [\d.]+ Mi?B of [\d.]+ Mi?B in use", event.reason)


def test_actors_that_hold_all_slots_are_named_where_calls_wait(flame: Any) -> None:
    cluster, client = flame(min=2, max=2)
    client.wait_for_workers(2, timeout=60)
    held = [dask_flame.place(Counter) for _ in range(2)]
    assert [counter.add().result() for counter in held] == [1, 1]
    future = client.submit(one, 7)
    wait_for(lambda: "waiting" in kinds(cluster))
    (said,) = [e.reason for e in cluster.events if e.kind == "waiting"]
    assert "actors hold all 2 slots (Counter-" in said
    assert "on runner-1" in said
    assert "on runner-2" in said
    assert "1 call waiting as actors hold all 2 slots" in repr(cluster)
    (pool,) = cluster._pools().pools
    assert "actors hold all 2 slots" in why(pool, count(pool.runners), [])[0]
    assert "actors hold all 2 slots" in cluster._repr_html_()
    held.pop()
    assert future.result() == 7
    assert "actors" not in repr(cluster)
    del held


@pytest.mark.parametrize(
    ("size", "said"),
    [(999, "999 B"), (480e6, "480 MB"), (500e6, "500 MB"), (1.2e9, "1.2 GB"), (2e12, "2 TB")],
)
def test_sizes_as_a_person_says_them(size: float, said: str) -> None:
    assert memory(size) == said
