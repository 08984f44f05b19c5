"""What a runner measures, and when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import dask
import pytest
from dask.system import CPU_COUNT

from dask_flame.backends.local.sampling_intervals import interval_factor, lengthen_intervals
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

LOOKS = ("profile", "tick", "ticks")


class Counter:
    """An actor."""


def spin() -> str:
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass
    return "done"


def test_a_runner_measures_while_it_has_calls(flame: Any) -> None:
    cluster, client = flame(max=1)

    def measured(dask_worker: Any) -> set[str]:
        callbacks = dask_worker.periodic_callbacks
        return {name for name in ("profile", "tick") if callbacks[name].is_running()}

    def state(dask_worker: Any) -> list[float]:
        # Names that are not public: see Quiet.
        return [
            dask_worker._last_tick,
            dask_worker._last_tick_cycle,
            dask_worker._last_tick_counter,
            dask_worker._tick_counter,
        ]

    def on_runner(function: Callable[..., Any]) -> Any:
        return next(iter(client.run(function).values()))

    assert client.submit(int, 1).result(timeout=60) == 1
    wait_for(lambda: not on_runner(measured), what="it rests")
    before = on_runner(state)
    time.sleep(1.5)  # measurements that go on would show
    assert on_runner(state) == before
    future = client.submit(spin, pure=False)
    wait_for(lambda: on_runner(measured) == {"profile", "tick"}, what="it measures again")
    assert future.result() == "done"
    assert client.profile()["count"] > 5
    actor = client.submit(Counter, actor=True).result()
    wait_for(lambda: on_runner(measured) == {"profile", "tick"}, what="an actor is looked at too")
    del actor, future
    wait_for(lambda: not on_runner(measured), what="it rests again")
    after = on_runner(state)
    # Rest is not taken for an event loop that was held up.
    assert after[0] > before[0]
    assert "unresponsive" not in str(cluster.get_logs())


def test_runners_that_share_a_core_measure_more_rarely(flame: Any) -> None:
    cluster, client = flame(min=1, max=4 * CPU_COUNT)

    def every(dask_worker: Any) -> dict[str, float]:
        return {name: dask_worker.periodic_callbacks[name].callback_time for name in LOOKS}

    client.wait_for_workers(1)
    with dask.config.set({"distributed.worker.profile.interval": "30ms"}):
        cluster.resize(min=4 * CPU_COUNT)
        client.wait_for_workers(4 * CPU_COUNT)
    intervals = client.run(every)
    one = next(ws.address for ws in cluster.scheduler.workers.values() if ws.name == "runner-1")
    assert intervals.pop(one) == {"profile": 10, "tick": 20, "ticks": 1_000}
    for interval in intervals.values():
        assert interval == pytest.approx({"profile": 120, "tick": 80, "ticks": 4_000})
    # What nobody held up is not shown as late beside the scheduler's 20 ms.
    shown = [ws for ws in cluster.scheduler.workers.values() if ws.address in intervals]
    # One after the other: a busy machine holds up some at any time.
    for ws in shown:
        wait_for(lambda ws=ws: ws.metrics["event_loop_interval"] < 0.07)


def test_settings_that_are_not_there_are_left_alone() -> None:
    nested: dict[str, Any] = {"distributed": {"worker": {"profile": {"interval": None}}}}
    assert lengthen_intervals(nested, 3) == nested
    assert lengthen_intervals({}, 3) == {}
    usual = {"distributed": {"admin": {"tick": {"interval": 20, "cycle": "1s"}}}}
    rarer = lengthen_intervals(usual, 2.5)
    assert rarer == {"distributed": {"admin": {"tick": {"interval": "0.05s", "cycle": "2.5s"}}}}
    assert usual["distributed"]["admin"]["tick"]["interval"] == 20
    assert [interval_factor(n, cores=2) for n in (0, 2, 3, 64, 200)] == [1, 1, 1.5, 32, 50]
