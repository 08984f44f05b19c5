"""Connect the hosts of a cluster with the driver and each other, over its connections (driver).

A host listens at a Unix socket, in a folder that only this user may enter; sshd forwards what
connects there to this process. The first line names a part of the cluster: this process connects
it, and passes bytes on. They are TLS from end to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Coroutine
from typing import Any

import asyncssh

from dask_flame.backends.ssh import routes
from dask_flame.core.background_tasks import BackgroundTasks, cancel_all

logger = logging.getLogger("dask_flame")

_CHUNK = 1 << 17
#: Seconds for the first line of a connection.
_LINE_WITHIN = 30.0


class HostRoute:
    """The way to the sockets of one host.

    Parameters
    ----------
    relay : Relay
    connection : asyncssh.SSHClientConnection
    folder : str
        Where its sockets are.
    """

    def __init__(self, relay: Relay, connection: asyncssh.SSHClientConnection, folder: str) -> None:
        self._relay = relay
        self._connection = connection
        self._folder = folder
        self._loop = asyncio.get_running_loop()

    async def dial(self, number: int) -> socket.socket:
        """Return a socket that is connected to a number of the host; from any event loop."""
        if asyncio.get_running_loop() is self._loop:
            return await self._dial(number)
        there = asyncio.run_coroutine_threadsafe(self._dial(number), self._loop)
        return await asyncio.wrap_future(there)

    async def _dial(self, number: int) -> socket.socket:
        try:
            reader, writer = await self._connection.open_unix_connection(
                f"{self._folder}/{number}", encoding=None
            )
        except asyncssh.Error as error:
            raise ConnectionRefusedError(f"{number} does not answer: {error}") from None
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        self._relay.start(_pass(ours, reader, writer))
        return theirs


class Relay:
    """The ways between the hosts of one cluster and its driver."""

    def __init__(self) -> None:
        self._routes: dict[str, HostRoute] = {}
        self._tasks = BackgroundTasks()

    def new_address(self) -> str:
        """Return an address for a host that no other one has in this process."""
        while True:
            numbers = (64 + secrets.randbelow(190), secrets.randbelow(256), secrets.randbelow(255))
            address = f"127.{numbers[0]}.{numbers[1]}.{numbers[2]}"
            if not routes.is_taken(address):
                return address

    async def add(
        self, address: str, connection: asyncssh.SSHClientConnection, folder: str
    ) -> None:
        """Connect a host.

        Raises
        ------
        asyncssh.Error, asyncssh.ChannelListenError
            Its sshd does not forward sockets.
        """
        await connection.start_unix_server(
            lambda: self._serve, f"{folder}/{routes.TO_DRIVER}", encoding=None
        )
        route = self._routes[address] = HostRoute(self, connection, folder)
        routes.add_route(address, route)

    def remove(self, address: str) -> None:
        """Forget a host."""
        if self._routes.pop(address, None) is not None:
            routes.remove_route(address)

    async def close(self) -> None:
        """Close all connections."""
        for address in list(self._routes):
            self.remove(address)
        await cancel_all(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something until it is done, or this is closed."""
        self._tasks.start(work)

    async def _serve(self, reader: Any, writer: Any) -> None:
        """Connect what a host has connected to its socket."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.keep(task)
        sock: socket.socket | None = None
        try:
            line = await asyncio.wait_for(reader.readline(), _LINE_WITHIN)
            address, number = line.decode().split()
            sock = await self._connected(address, int(number))
            answer = routes.ACCEPTED
        except (OSError, ValueError, TimeoutError, asyncssh.Error) as error:
            words = " ".join(str(error).split()) or type(error).__name__
            answer = words.encode()[: routes.LINE - 1] + b"\n"
        try:
            writer.write(answer)
            if sock is not None:
                await _pass(sock, reader, writer)
        finally:
            if sock is not None:
                sock.close()
            writer.close()

    async def _connected(self, address: str, number: int) -> socket.socket:
        """Connect to a part of this cluster, and to nothing else.

        Raises
        ------
        OSError
        """
        if address == routes.DRIVER:
            if not routes.is_own(number):
                raise OSError(f"the driver does not listen at {number}")
            return await routes.connected_port(number)
        if (route := self._routes.get(address)) is None:
            raise OSError(f"the host {address} is not connected to the driver")
        return await route.dial(number)


async def _pass(sock: socket.socket, reader: Any, writer: Any) -> None:
    """Pass bytes on between a socket and a channel, until both directions have ended."""
    both = [
        asyncio.ensure_future(_to_channel(sock, writer)),
        asyncio.ensure_future(_to_socket(reader, sock)),
    ]
    try:
        await asyncio.gather(*both)
    except (OSError, asyncssh.Error) as error:
        logger.debug("a forwarded connection has ended: %s", error)
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        sock.close()
        with contextlib.suppress(OSError, asyncssh.Error):
            writer.close()


async def _to_channel(sock: socket.socket, writer: Any) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, _CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _to_socket(reader: Any, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(_CHUNK):
        await loop.sock_sendall(sock, data)
    sock.shutdown(socket.SHUT_WR)
