"""The port that shows that a driver is alive: what connects to it is closed with it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket

import pytest

from dask_flame.backends.kubernetes.liveness import _MOST, LivenessPort

pytestmark = pytest.mark.process


# After two turns, asyncio of Python 3.11 itself loses the connection of a server that closes.
@pytest.mark.parametrize("turns", [0, 1, 3, 4, 5, 6, 7])
def test_a_connection_that_comes_while_it_closes_is_closed(turns: int) -> None:
    async def connected() -> socket.socket:
        port = LivenessPort()
        number = port.at("127.0.0.1")
        await port.listen()
        client = socket.create_connection(("127.0.0.1", number), timeout=20)
        for _ in range(turns):
            await asyncio.sleep(0)
        await port.close()
        for _ in range(8):  # the loop of a client goes on for a while
            await asyncio.sleep(0)
        return client

    loop = asyncio.new_event_loop()  # asyncio.run() would cancel what is left
    try:
        client = loop.run_until_complete(connected())
    finally:
        loop.close()
    with client, contextlib.suppress(ConnectionResetError):
        # What is left open is a ResourceWarning, and so an error, when it is collected.
        gc.collect()
        assert client.recv(1) == b""


def test_strangers_use_up_nothing_and_the_watchdog_finds_a_place() -> None:
    async def held() -> None:
        port = LivenessPort()
        number = port.at("127.0.0.1")
        await port.listen()
        opened = []
        for _ in range(40):
            opened.append(await asyncio.open_connection("127.0.0.1", number))
        for reader, _ in opened[:-_MOST]:
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(1), 60) == b""
        # The last to come is there.
        assert not opened[-1][0].at_eof()
        assert len(port._held) == _MOST
        for _, writer in opened:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await port.close()

    asyncio.run(held())
