"""That this driver is there: a port that its keeper holds a connection to (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import socket


class LivenessPort:
    """Listens for as long as the driver's process, and its cluster, are there.

    Nothing is said on it, see :mod:`dask_flame.backends.kubernetes.watchdog`. It is a port of its
    own, and not the scheduler's: there a connection has to begin with TLS, and one that does not is
    an error when the scheduler closes.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._held: set[asyncio.StreamWriter] = set()

    def at(self, host: str) -> int:
        """The port that it is, or will be, on: always the same one."""
        if self._socket is None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, 0), family=family)
        port: int = self._socket.getsockname()[1]
        return port

    async def listen(self) -> None:
        """Take connections, once :meth:`at` has said where."""
        if self._server is None:
            self._server = await asyncio.start_server(self._hold, sock=self._socket)

    async def close(self) -> None:
        """Be there no more."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._held):
                writer.close()
            await self._server.wait_closed()
        elif self._socket is not None:
            self._socket.close()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._held.add(writer)
        try:
            with contextlib.suppress(OSError):
                while await reader.read(4096):
                    pass
        finally:
            self._held.discard(writer)
            writer.close()
