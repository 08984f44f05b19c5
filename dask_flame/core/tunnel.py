"""Bytes of a TCP connection over one of Dask's connections (driver, scheduler's pod).

The dashboard of a remote scheduler listens on its loopback address, where nobody else can connect.
Through a tunnel, the driver reaches it with no more than the connection that it has anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from distributed.comm import Comm, CommClosedError

from dask_flame.core.background_tasks import BackgroundTasks, cancel_all
from dask_flame.core.unproven import MOST_FORWARDED

logger = logging.getLogger("dask_flame")

_CHUNK = 1 << 16
_HOST = "127.0.0.1"


async def carry(comm: Comm, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on in both directions, until one side closes; then close the other."""
    try:
        await until_one_ends(_to_comm(reader, comm), _from_comm(comm, writer))
    finally:
        comm.abort()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until_one_ends(*ways: Coroutine[Any, Any, None]) -> None:
    """Run both directions of a connection until one of them ends; then cancel the other."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _to_comm(reader: asyncio.StreamReader, comm: Comm) -> None:
    with contextlib.suppress(OSError, CommClosedError):
        while data := await reader.read(_CHUNK):
            await comm.write(data)


async def _from_comm(comm: Comm, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, CommClosedError):
        while True:
            writer.write(await comm.read())
            await writer.drain()


async def lead_to(comm: Comm, port: int) -> None:
    """Connect a tunnel to a port of this machine's loopback address."""
    try:
        reader, writer = await asyncio.open_connection(_HOST, port)
    except OSError as error:
        logger.debug("nobody listens at the end of a tunnel: %s", error)
        comm.abort()
        return
    await carry(comm, reader, writer)


class TunnelEntry:
    """A port of this machine's loopback address, at which tunnels begin.

    Parameters
    ----------
    connect : callable
        Opens a connection at whose other end somebody calls :func:`lead_to`.
    """

    def __init__(self, connect: Callable[[], Awaitable[Comm]]) -> None:
        self._connect = connect
        self._server: asyncio.Server | None = None
        self._under_way = BackgroundTasks()

    async def start(self, at: int = 0) -> int:
        """Listen, and return the port: this one if it is free, else any."""
        try:
            self._server = await asyncio.start_server(self._accept, _HOST, at)
        except OSError:
            self._server = await asyncio.start_server(self._accept, _HOST, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening, and close all tunnels."""
        if self._server is not None:
            self._server.close()
        await cancel_all(self._under_way)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._under_way) >= MOST_FORWARDED:
            writer.transport.abort()  # each needs a connection to the scheduler
            return
        self._under_way.start(self._pass(reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            comm = await self._connect()
        except OSError as error:
            logger.debug("the scheduler's dashboard is out of reach: %s", error)
            writer.close()
            return
        except BaseException:
            writer.close()  # the entry closes while the scheduler is out of reach
            raise
        await carry(comm, reader, writer)
