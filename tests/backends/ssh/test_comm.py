"""The listener of a driver over SSH, whose port everybody on its machine reaches."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from distributed.comm import connect, listen

from dask_flame.backends.ssh import comm
from dask_flame.driver.certificates import temporary_security

pytestmark = pytest.mark.process


@pytest.mark.asyncio
@pytest.mark.parametrize("limit", ["time", "number"])
async def test_a_handshake_has_a_time_and_the_oldest_makes_room(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(comm, "HANDSHAKE_WITHIN", 0.2 if limit == "time" else 600)
    monkeypatch.setattr(comm, "MOST_HANDSHAKES", 100 if limit == "time" else 3)
    security = temporary_security()

    async def answer(connection: Any) -> None:
        with contextlib.suppress(OSError):
            await connection.write(await connection.read())

    listener = await listen(
        f"{comm.PREFIX}127.0.0.1:0", answer, **security.get_listen_args("scheduler")
    )
    port = int(listener.listen_address.rpartition(":")[2])
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
    for reader, _ in opened[: 8 if limit == "time" else 5]:
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(1), 60) == b""
    if limit == "number":
        assert not any(reader.at_eof() for reader, _ in opened[5:])
        # Who has a certificate comes in, however many have none.
        made = await connect(
            listener.contact_address, timeout=60, **security.get_connection_args("client")
        )
        await made.write("hello")
        assert await made.read() == "hello"
        made.abort()
    for _, writer in opened:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    listener.stop()
