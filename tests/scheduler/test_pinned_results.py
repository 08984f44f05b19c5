"""Calls go to the results that cannot come to them."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Client, Event, get_worker

import dask_flame
from dask_flame import FlameCluster, Pool
from dask_flame.errors import CallFailed
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

Make = Callable[..., tuple[FlameCluster, Client]]


def lock(n: int = 42) -> tuple[Any, int]:
    return threading.Lock(), n


def bound() -> socket.socket:
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    opened.listen()
    return opened


def takes_away(thing: Any) -> Any:
    thing.close()
    return _name()


def _name() -> str:
    return str(get_worker().name)


def uses(made: Any, seconds: float = 0.0, *others: Any) -> tuple[str, int]:
    time.sleep(seconds)
    return _name(), made[1]


class ReadWhereItWasMade:
    """Is sent, and cannot be read by anybody else."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def __getitem__(self, index: int) -> int:
        return index

    def __reduce__(self) -> Any:
        return _read, (self.pid,)


def _read(pid: int) -> Any:
    if os.getpid() != pid:
        raise OSError("it is not in this process")
    return ReadWhereItWasMade()


@pytest.mark.parametrize("make", [lock, ReadWhereItWasMade])
def test_calls_wait_for_the_slot_of_the_runner_that_has_it(flame: Make, make: Any) -> None:
    cluster, client = flame(max=3)
    made = client.submit(make, key="made")
    wait_for(lambda: made.status == "finished")
    (holder,) = (ws.name for ws in cluster.scheduler.tasks["made"].who_has)
    # It is busy: they are given to others, which ask for it in vain.
    gate = Event("gate", client=client)
    busy = client.submit(gate.wait, workers=[holder])
    futures = [client.submit(uses, made, 0.05, key=f"uses-{n}") for n in range(6)]
    others = client.map(lambda x: x + 1, range(20))
    wait_for(lambda: any("made cannot be sent" in event.reason for event in cluster.events))
    gate.set()
    names = {name for name, _ in client.gather(futures)}
    assert names == {holder}
    assert client.gather(others) == list(range(1, 21))
    assert client.submit(uses, made, 0.0, 1, pure=False).result()[0] == holder
    busy.result()


def test_a_socket_with_one_slot_a_runner(flame: Make) -> None:
    """As LightGBM does it: opened in one call for each runner, and used in the next."""
    _, client = flame(max=2, min=2)
    client.wait_for_workers(2)
    names = [ws["name"] for ws in client.scheduler_info(n_workers=-1)["workers"].values()]
    opened = {name: client.submit(bound, workers=[name], pure=False) for name in names}
    used = [client.submit(takes_away, opened[name], pure=False) for name in reversed(names)]
    assert client.gather(used) == list(reversed(names))


def test_results_of_two_runners_cannot_meet(flame: Make) -> None:
    cluster, client = flame(max=2, min=2)
    client.wait_for_workers(2)
    one, two = (client.submit(lock, n, workers=[f"runner-{n}"]) for n in (1, 2))
    both = client.submit(uses, one, 0.0, two)
    with pytest.raises(CallFailed, match=r"cannot be sent to another runner") as caught:
        both.result(timeout=60)
    assert {"runner-1", "runner-2"} <= set(str(caught.value).split())
    # What can be sent goes on, and so do its neighbours.
    assert client.submit(uses, one).result()[1] == 1
    assert client.submit(uses, two).result()[1] == 2
    assert {e.kind for e in cluster.events} <= {"boot", "ready", "waiting"}


def test_another_pool_cannot_have_it(flame: Make) -> None:
    _, client = flame(pools={"cpu": Pool(max=1), "gpu": Pool(max=1)})
    made = client.submit(lock)
    with dask_flame.on("gpu"):
        away = client.submit(uses, made)
    with pytest.raises(CallFailed, match="cannot run where they are"):
        away.result(timeout=60)
    assert client.submit(uses, made, pure=False).result()[0] == "cpu-1"


def test_its_runner_stays_for_as_long_as_somebody_wants_it(flame: Make) -> None:
    cluster, client = flame(max=1, idle_timeout="0.2s")
    made = client.submit(lock)
    wait_for(
        lambda: any(
            "cannot pickle '_thread.lock'" in e.reason for e in cluster.events if e.kind == "kept"
        )
    )
    assert client.submit(uses, made, pure=False).result()[1] == 42
    del made
    wait_for(lambda: not cluster.runners)


def test_a_lost_one_is_made_again(flame: Make) -> None:
    cluster, client = flame(max=2)
    made = client.submit(lock, key="made")
    pid = client.submit(lambda made: os.getpid(), made).result()
    blocked = client.submit(uses, made, 100, key="blocked")
    waits = client.submit(uses, made, key="waits")
    wait_for(lambda: blocked.status == "pending" and "blocked" in cluster.scheduler.tasks)
    wait_for(lambda: cluster.scheduler.tasks["blocked"].state == "processing")
    blocked.cancel()
    os.kill(pid, 9)
    assert waits.result(timeout=60)[1] == 42


class ExitsWhenSent:
    """And when it is shown, for the error that says so."""

    def __reduce__(self) -> Any:
        sys.exit(1)

    def __str__(self) -> str:
        sys.exit(2)

    __repr__ = __str__


class DeepWhenSent:
    def __reduce__(self) -> Any:
        return self.__reduce__()


@pytest.mark.parametrize("make", [ExitsWhenSent, DeepWhenSent])
def test_the_driver_is_told_of_one_that_cannot_be_shown_either(flame: Make, make: Any) -> None:
    cluster, client = flame(max=2)
    made = client.submit(make, key="made")
    with pytest.raises(TypeError, match=r"SystemExit: 1|recursion"):
        made.result(timeout=60)
    (holder,) = (ws.name for ws in cluster.scheduler.tasks["made"].who_has)
    used = client.map(lambda made, n: _name(), [made] * 4, range(4))
    assert client.gather(used) == [holder] * 4


def test_the_driver_is_told_of_one_that_it_cannot_have(flame: Make) -> None:
    _, client = flame(max=1)
    made = client.submit(lock)
    with pytest.raises(TypeError, match="Could not serialize"):
        made.result(timeout=60)
    with pytest.raises(TypeError, match="Could not serialize"):
        client.gather([client.submit(_name), made])
