"""A port that shows the watchdog that this driver is alive (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from dask_flame.core.unproven import Unproven

#: Connections at once. The watchdog needs one, and connects again if it loses it.
_MOST = 8


class LivenessPort:
    """Listen as long as the driver's process and its cluster exist.

    Nothing is sent over the connection, see :mod:`dask_flame.backends.kubernetes.watchdog`. The
    scheduler's port is not used, because connections to it must begin with TLS, and any other is an
    error when the scheduler closes.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._held: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._closed = False
        # Whoever reaches this pod may connect, and would use up the driver's descriptors.
        self._places: Unproven[asyncio.StreamWriter] = Unproven(
            _MOST, lambda writer: writer.transport.abort()
        )

    def at(self, host: str) -> int:
        """Return the port; it never changes."""
        if self._socket is None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, 0), family=family)
        port: int = self._socket.getsockname()[1]
        return port

    async def listen(self) -> None:
        """Accept connections, after a call to :meth:`at`."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, sock=self._socket)

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        self._closed = True
        if self._server is not None:
            self._server.close()
            held = dict(self._held)
            for task, writer in held.items():
                task.cancel()
                writer.transport.abort()
            await asyncio.gather(*held, return_exceptions=True)
            await self._server.wait_closed()
        elif self._socket is not None:
            self._socket.close()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Registered at once: a task that has not begun when this closes could not do it.
        if self._closed:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._hold(reader, writer))
        self._held[task] = writer
        task.add_done_callback(self._held.pop)

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._places.add(writer)
        try:
            with contextlib.suppress(OSError):
                while await reader.read(4096):
                    pass
        finally:
            self._places.remove(writer)
            writer.close()
