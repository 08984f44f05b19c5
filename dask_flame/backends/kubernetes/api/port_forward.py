"""Forward a local port to a port of a pod, through the API server (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from dask_flame.backends.kubernetes.api.client import Api, KubernetesError
from dask_flame.core.unproven import MOST_FORWARDED

logger = logging.getLogger("dask_flame")

_CHUNK = 1 << 18


class PortForward:
    """Listen on the loopback address, and forward each connection to a port of a pod.

    A broken connection is closed on both sides, and a new one is forwarded anew: the port survives
    outages of the network and of the API server.

    Parameters
    ----------
    api : Api
    pod : str
    port : int
        Port of the pod.

    Attributes
    ----------
    trouble : str
        Why the last connection failed or broke; empty once one has received data.
    """

    def __init__(self, api: Api, pod: str, port: int) -> None:
        self._api = api
        self._pod = pod
        self._port = port
        self.trouble = ""
        self._server: asyncio.Server | None = None
        self._closed = False
        self._passing: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, at: int = 0) -> int:
        """Listen on this port, or any if it is in use; return the port."""
        try:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", at)
        except OSError:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        passing = dict(self._passing)
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        for writer in passing.values():
            # A task cancelled before it started has not closed its connection.
            if not writer.is_closing():
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed or len(self._passing) >= MOST_FORWARDED:
            writer.transport.abort()  # each needs a connection to the API server
            return
        task = asyncio.ensure_future(self.carry(reader, writer))
        self._passing[task] = writer
        task.add_done_callback(self._passing.pop)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes between this connection and the port of the pod, until either side closes."""
        there: asyncio.Task[None] | None = None
        closed = False
        try:
            async with self._api.forward(self._pod, self._port) as stream:

                async def send() -> None:
                    with contextlib.suppress(OSError):
                        while data := await reader.read(_CHUNK):
                            await stream.send(data)
                    await stream.end()

                there = asyncio.create_task(send())
                async for data in stream:
                    self.trouble = ""
                    writer.write(data)
                    await writer.drain()
            # Flush the last data.
            writer.close()
            await writer.wait_closed()
            closed = True
        except (KubernetesError, OSError) as error:
            self.trouble = str(error)
            logger.debug("port %d of pod %s: %s", self._port, self._pod, error)
        finally:
            if there is not None:
                there.cancel()
                await asyncio.gather(there, return_exceptions=True)
            if not closed:
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
