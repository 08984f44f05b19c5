"""Proxy on this machine that fails on request, to test broken connections (tests)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from dask_flame.comm.addresses import PREFIX, SCHEME, location, path_of
from dask_flame.core.socket_paths import connected_socket, listening_socket

T = TypeVar("T")


class _Pipe:
    """Connection through the proxy: the sockets of the client and of the target."""

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self.client = client
        self.target = target


class _Tcp:
    """A target with a port."""

    def __init__(self, protocol: str, target: str) -> None:
        self._protocol = protocol or "tcp"
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))

    def serve(self, accept: Any) -> Coroutine[Any, Any, asyncio.Server]:
        return asyncio.start_server(accept, "127.0.0.1", 0)

    def address(self, server: asyncio.Server) -> str:
        host, port = server.sockets[0].getsockname()
        return f"{self._protocol}://{host}:{port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self._target)

    def remove(self) -> None:
        pass


class _Unix:
    """A target with a Unix socket; the proxy's is beside it."""

    def __init__(self, target: str) -> None:
        self._target = path_of(target)
        self._own = f"{self._target}-{secrets.token_hex(4)}"

    async def serve(self, accept: Any) -> asyncio.Server:
        return await asyncio.start_unix_server(accept, sock=listening_socket(self._own, 128))

    def address(self, server: asyncio.Server) -> str:
        return PREFIX + location(self._own)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(sock=connected_socket(self._target))

    def remove(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # a name without a path
            os.unlink(self._own)


class Proxy:
    """Forwards connections to a target, and can drop, hold, delay or half-close them.

    It has an event loop in a thread of its own, so that it works even if either side blocks. Use it
    as a context manager, which closes every connection at its end.

    Parameters
    ----------
    target : str
        Address to connect to, such as ``"tcp://127.0.0.1:8786"`` or a local cluster's.

    Attributes
    ----------
    address : str
        Address of the proxy, in the same form.
    passed : int
        Number of bytes forwarded so far, in both directions.
    delay : float
        Seconds by which each piece of data is delayed.

    Examples
    --------
    >>> with Proxy(cluster.scheduler_address) as proxy, Client(proxy.address) as client:
    ...     future = client.submit(slow)
    ...     proxy.cut()
    ...     proxy.restore()
    ...     future.result()
    1
    """

    def __init__(self, target: str) -> None:
        protocol, _, rest = target.rpartition("://")
        self._way: _Tcp | _Unix = _Unix(rest) if protocol == SCHEME else _Tcp(protocol, rest)
        self.delay = 0.0
        self.passed = 0
        self._pipes: set[_Pipe] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refusing = False
        self._after: int | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._open = self._run(self._gate())
        self._server: asyncio.Server = self._run(self._way.serve(self._accept))
        self.address = self._way.address(self._server)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._pipes)

    def cut(self, *, refuse: bool = True) -> None:
        """Reset every connection; with `refuse`, also new ones until :meth:`restore`."""

        async def cut() -> None:
            self._refusing = refuse
            self._reset()

        self._run(cut())

    def cut_after(self, size: int) -> None:
        """Cut all connections after `size` more bytes, possibly in the middle of a message."""
        self._after = self.passed + size

    def hold(self) -> None:
        """Forward nothing and stay silent, also on new connections: a black hole."""

        async def hold() -> None:
            self._open.clear()

        self._run(hold())

    def lose(self) -> None:
        """Drop the connections of a black hole without notifying either side."""

        async def lose() -> None:
            # The sockets stay open, but data in transit or arriving later is never forwarded.
            for task in self._tasks:
                task.cancel()

        self._run(lose())

    def half_close(self, *, toward: str = "client") -> None:
        """Close each connection in one direction: that side reads the end of the stream.

        The other direction forwards nothing any more, and its side is not notified.
        """

        async def half_close() -> None:
            for task in self._tasks:
                task.cancel()
            for pipe in self._pipes:
                with contextlib.suppress(OSError):
                    getattr(pipe, toward).write_eof()

        self._run(half_close())

    def restore(self) -> None:
        """Forward new data again; connections that were reset or lost remain so."""

        async def restore() -> None:
            self._refusing = False
            self._after = None
            self._open.set()

        self._run(restore())

    def close(self) -> None:
        """Stop listening, close every connection and end the thread."""
        if self._loop.is_closed():
            return

        async def close() -> None:
            self._refusing = True
            self._server.close()
            self._way.remove()
            self._reset()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)

        self._run(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _gate(self) -> asyncio.Event:
        gate = asyncio.Event()
        gate.set()
        return gate

    def _reset(self) -> None:
        for pipe in list(self._pipes):
            _reset(pipe.client)
            _reset(pipe.target)
        self._pipes.clear()

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(client)
            return
        try:
            far, target = await self._way.connect()
        except OSError:
            _reset(client)
            return
        pipe = _Pipe(client, target)
        self._pipes.add(pipe)
        for source, sink in ((reader, target), (far, client)):
            task = asyncio.ensure_future(self._pass(pipe, source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(
        self, pipe: _Pipe, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await source.read(2**16):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._open.wait()
                if self._after is not None and self.passed + len(data) >= self._after:
                    sink.write(data[: self._after - self.passed])
                    self._after = None
                    self._refusing = True
                    await asyncio.sleep(0)
                    self._reset()
                    return
                self.passed += len(data)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        except asyncio.CancelledError:
            return  # this direction is neither read nor closed from here on
        # One side has closed or lost its connection: close the other.
        self._pipes.discard(pipe)
        pipe.client.close()
        pipe.target.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a router does that has forgotten a connection."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() != -1:
        with contextlib.suppress(OSError):
            # A linger time of zero discards unsent data and notifies the other side at once.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()
