"""A port of a pod on this machine's loopback address, by way of the API server (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from dask_flame.backends.kubernetes.api.client import Api, KubernetesError

logger = logging.getLogger("dask_flame")

_CHUNK = 1 << 18


class PortForward:
    """Listens here, and has each connection lead to a port of a pod.

    A connection that breaks is ended on both sides; what connects anew gets a new one, so that the
    port outlives a network that is gone for a while, and the API server itself.

    Parameters
    ----------
    api : Api
    pod : str
    port : int
        The pod's.

    Attributes
    ----------
    trouble : str
        Why the last connection could not be made, or broke; empty once one has brought something.
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
        """Listen at this port of this machine, if it is free, else at any; which one it is."""
        try:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", at)
        except OSError:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Listen no more, and end all connections."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        passing = dict(self._passing)
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        for writer in passing.values():
            # One that was cancelled before it had begun has closed nothing.
            if not writer.is_closing():
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._pass(reader, writer))
        self._passing[task] = writer
        task.add_done_callback(self._passing.pop)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
            # What was said last may not have been taken yet.
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
