"""A Client's requests return when it knows what has come of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Client, LocalCluster

from dask_flame import FlameCluster
from dask_flame.core.messages import LEASE
from tests.lease.answers_calls import double
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

Flame = Callable[..., tuple[FlameCluster, Client]]


def read_late(client: Client, seconds: float = 0.1) -> None:
    """Let a Client hear of everything so much later, as long as its connection is there."""
    comm = client.scheduler_comm.comm
    read = comm.read

    async def late(*args: Any, **kwargs: Any) -> Any:
        messages = await read(*args, **kwargs)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not comm.closed():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return messages

    comm.read = late


def submitted(client: Client, x: int = 1) -> Any:
    return client.submit(double, x).result(timeout=60)


def test_calls_after_a_restart_are_run(flame: Flame) -> None:
    cluster, client = flame(max=1)
    with Client(cluster) as beside, Client(cluster.scheduler_address) as other:
        clients = (client, beside, other)
        for each in clients:
            assert submitted(each) == 2  # each waits for messages in its old way now
            read_late(each)
        for who in clients:
            held = [each.submit(double, 1) for each in clients]
            assert [future.result(timeout=60) for future in held] == [2] * 3
            who.restart()
            assert {future.status for future in held} == {"cancelled"}
            assert [submitted(each) for each in clients] == [2] * 3


@pytest.mark.asyncio
async def test_with_asynchronous_clients() -> None:
    async with (
        FlameCluster(max=1, asynchronous=True, dashboard_address=None) as cluster,
        Client(cluster, asynchronous=True) as client,
        Client(cluster, asynchronous=True) as beside,
    ):
        for each in (client, beside):
            read_late(each)
        for _ in range(2):
            held = client.submit(double, 1)
            assert await held == 2
            await client.restart()
            assert held.status == "cancelled"
            assert await beside.submit(double, 1) == 2
            assert await client.submit(double, 1) == 2
            again = client.submit(double, 2)
            await client.cancel(again)
            assert await client.submit(double, 2) == 4


def test_a_call_from_just_before_a_restart_does_not_run_on_for_nobody(flame: Flame) -> None:
    cluster, client = flame(max=1)
    assert submitted(client) == 2
    read_late(client)
    for x in range(10):
        future = client.submit(double, x)
        client.restart()
        assert future.status == "cancelled"
        wait_for(lambda: not cluster.scheduler.tasks)


@pytest.mark.parametrize("late", [0.0, 0.02])
def test_a_cancelled_call_may_be_submitted_again_at_once(late: float, flame: Flame) -> None:
    """That the runner has just ended it when it is taken back is no reason to keep its slot."""
    _, client = flame(max=1, shutdown_timeout="5m")
    assert submitted(client) == 2
    if late:
        read_late(client, late)
    for x in range(20 if late else 150):
        future = client.submit(double, x)
        client.cancel(future)
        assert submitted(client, x) == 2 * x
        assert future.status == "cancelled"
        other = client.submit(double, -x)
        other.cancel()
        assert submitted(client, -x) == -2 * x


def test_nobody_waits_for_a_connection_that_is_gone(flame: Flame) -> None:
    _, client = flame(max=1)
    assert submitted(client) == 2
    read_late(client, 600)
    drop = threading.Timer(0.5, client.loop.add_callback, [client.scheduler_comm.abort])
    drop.start()
    client.restart()
    drop.join()
    link = client.extensions[LEASE]
    wait_for(lambda: link.sender is not None)
    assert submitted(client, 3) == 6
    client.scheduler_comm.abort()
    client.cancel(client.submit(double, 4))
    assert submitted(client, 5) == 10


def test_clients_of_other_schedulers_are_as_ever(flame: Flame) -> None:
    flame(max=1)  # from here on all Clients of this process may have a lease
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        assert submitted(client) == 2
        future = client.submit(double, 2)
        client.cancel(future)
        assert future.status == "cancelled"
        with pytest.raises(TimeoutError):
            client.restart(timeout=0.1)
        assert client.futures == {}
