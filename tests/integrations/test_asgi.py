"""A request's call ends with its client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from distributed import Client

import dask_flame
from dask_flame import FlameCluster, FlameError
from dask_flame.integrations.asgi import while_connected
from tests.support.waiting import until

pytestmark = [pytest.mark.process, pytest.mark.asyncio]


@dataclass
class Request:
    """A request whose server has these messages for it."""

    messages: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    async def receive(self) -> Any:
        message = await self.messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    def hang_up(self) -> None:
        self.messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self.messages.put_nowait({"type": "http.disconnect"})


def spin() -> None:
    while True:
        time.sleep(0.01)


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[FlameCluster]:
    async with (
        FlameCluster(max=1, asynchronous=True, dashboard_address=None) as cluster,
        Client(cluster, asynchronous=True),
    ):
        yield cluster


async def test_a_request_has_its_result_or_its_error(cluster: FlameCluster) -> None:
    request = Request()
    assert await while_connected(request, dask_flame.call(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await while_connected(request, dask_flame.call(divmod, 7, 0))
    # It waits for messages no more: the next one is for whoever asks.
    request.hang_up()
    assert (await request.receive())["type"] == "http.request"


async def test_a_client_that_hangs_up_cancels_its_call(cluster: FlameCluster) -> None:
    for end in ("hang up", "cancel", "fail"):
        request = Request()
        task = asyncio.ensure_future(while_connected(request, dask_flame.call(spin)))
        tasks = cluster.scheduler.tasks
        await until(lambda: any(ts.state == "processing" for ts in tasks.values()))  # noqa: B023
        if end == "hang up":
            request.hang_up()
            with pytest.raises(ConnectionAbortedError, match="hung up"):
                await task
        elif end == "cancel":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            request.messages.put_nowait(OSError("the server is gone"))
            with pytest.raises(OSError, match="server is gone"):
                await task
        await until(lambda: not tasks)  # noqa: B023
        assert await dask_flame.call(abs, -1) == 1


async def test_a_call_that_has_blocked_the_server_is_refused() -> None:
    with pytest.raises(FlameError, match=r"a tuple cannot .* asynchronous=True"):
        await while_connected(Request(), divmod(7, 2))  # type: ignore[arg-type]
