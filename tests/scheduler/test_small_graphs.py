"""The graph of a single call is read at once, and overtakes no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import dask
import pytest
import pytest_asyncio
from distributed import Client, Future

from dask_flame.core.distributed_internals import offload_executor
from dask_flame.scheduler.scheduler import FlameScheduler
from tests.support.waiting import until

pytestmark = [pytest.mark.process, pytest.mark.asyncio]


@pytest.fixture
def offloaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what is given to distributed's thread."""
    executor = offload_executor()
    given: list[Any] = []
    submit = executor.submit

    def noted(*args: Any, **kwargs: Any) -> Any:
        given.append(args[0])
        return submit(*args, **kwargs)

    monkeypatch.setattr(executor, "submit", noted)
    return given


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[FlameScheduler, Client]]:
    async with (
        FlameScheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler,
        Client(scheduler.address, asynchronous=True) as client,
    ):
        yield scheduler, client


async def test_the_graph_of_one_call_is_read_without_a_thread(
    pair: tuple[FlameScheduler, Client], offloaded: list[Any]
) -> None:
    scheduler, client = pair
    one = client.submit(abs, -1)
    two = client.submit(abs, one)
    await until(lambda: two.key in scheduler.tasks)
    assert scheduler.tasks[two.key].dependencies == {scheduler.tasks[one.key]}
    assert not offloaded
    many = client.map(abs, range(10))
    await until(lambda: many[-1].key in scheduler.tasks)
    assert len(offloaded) == 1
    total = client.compute(dask.delayed(sum)([dask.delayed(abs)(n) for n in range(3)]))
    await until(lambda: total.key in scheduler.tasks)
    assert len(offloaded) > 1


async def test_it_overtakes_no_graph_that_is_being_read(
    pair: tuple[FlameScheduler, Client],
) -> None:
    scheduler, client = pair
    async with Client(scheduler.address, asynchronous=True) as other:
        opened = threading.Event()
        blocked = offload_executor().submit(opened.wait, 60)
        try:
            many = client.map(abs, range(10))
            await until(lambda: scheduler.graphs_being_read == 1)
            # Of another client, as the graphs of one are read in turn.
            last = other.submit(abs, Future(many[-1].key, other))
            await until(lambda: scheduler.graphs_being_read == 2 or last.cancelled())
        finally:
            opened.set()
        await asyncio.wrap_future(blocked)
        await until(lambda: last.key in scheduler.tasks or last.cancelled())
        assert scheduler.tasks[last.key].dependencies == {scheduler.tasks[many[-1].key]}
