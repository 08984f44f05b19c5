"""Calls that run at the same time, on a machine of any speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Client, Event

from tests.support.waiting import wait_for


def at_once(cluster: Any, client: Client, call: Callable[[], Any], number: int) -> list[Any]:
    """Run so many calls at the same time, and return what they return.

    Calls that only last for a while may run one after the other, where the boots of other runners
    take longer than they do.
    """
    gate = Event(f"all {number} run", client=client)
    gate.clear()
    futures = client.map(lambda _: gate.wait() and call(), range(number), pure=False)
    busy = lambda: sum(runner.busy for runner in cluster.runners.values())  # noqa: E731
    wait_for(lambda: busy() == number, what=f"{number} calls run")
    gate.set()
    return list(client.gather(futures))
