"""What a runner measures, and when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from conftest import wait_for


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

    assert client.submit(int, 1).result(timeout=30) == 1
    wait_for(lambda: not on_runner(measured), what="it rests")
    before = on_runner(state)
    time.sleep(1.5)  # measurements that go on would show
    assert on_runner(state) == before
    future = client.submit(spin, pure=False)
    wait_for(lambda: on_runner(measured) == {"profile", "tick"}, what="it measures again")
    assert future.result() == "done"
    assert client.profile()["count"] > 20
    actor = client.submit(Counter, actor=True).result()
    wait_for(lambda: on_runner(measured) == {"profile", "tick"}, what="an actor is looked at too")
    del actor, future
    wait_for(lambda: not on_runner(measured), what="it rests again")
    after = on_runner(state)
    # Rest is not taken for an event loop that was held up.
    assert after[0] > before[0]
    assert "unresponsive" not in str(cluster.get_logs())
