"""The entry of tunnels, which everybody on this machine reaches."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from distributed.comm import Comm

from dask_flame.core import tunnel
from tests.support.waiting import until

pytestmark = pytest.mark.process


@pytest.mark.asyncio
async def test_there_are_only_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "MOST_FORWARDED", 3)
    connected: list[Any] = []

    async def connect() -> Comm:
        connected.append(None)
        await asyncio.Event().wait()
        raise AssertionError

    entry = tunnel.TunnelEntry(connect)
    port = await entry.start()
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
    for reader, _ in opened[3:]:
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(1), 60) == b""
    await until(lambda: len(connected) == 3)
    assert len(entry._under_way) == 3
    await entry.close()
    for reader, _ in opened[:3]:
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(1), 60) == b""
    for _, writer in opened:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
