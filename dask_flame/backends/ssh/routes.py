"""The ways from this process to the parts of clusters that are reached over SSH (all places).

An address is a host and a number: that of the driver is ``127.0.0.1``, and each host of a cluster
has another one of the loopback network, which only names it. In a process on a host, numbers are
names of Unix sockets in a folder that only this user may enter; one more socket there leads to the
driver, over the connection that the driver has opened, and from there to other hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Protocol

from dask_flame.core.socket_paths import connected_socket

#: The address of a driver, in all clusters.
DRIVER = "127.0.0.1"
#: Variables of a process on a host: the folder of its sockets, and its own address.
FOLDER, ADDRESS = "DASK_FLAME_SSH_FOLDER", "DASK_FLAME_SSH_ADDRESS"
#: The socket in that folder that leads to the driver.
TO_DRIVER = "driver"
#: Maximum number of bytes of an answer, and the answer to a line that could be connected.
LINE = 512
ACCEPTED = b"ok\n"
#: Seconds between two attempts to connect to a socket with a full queue.
_FULL, _FULL_AT_MOST = 0.001, 0.05


class Route(Protocol):
    """A way to one host, in the driver's process."""

    async def dial(self, number: int) -> socket.socket:
        """Return a non-blocking socket, connected to this number of the host."""


#: The hosts that this process reaches as a driver, by their addresses.
_routes: dict[str, Route] = {}
#: The numbers that this process listens at as a driver.
_own: set[int] = set()


def add_route(address: str, route: Route) -> None:
    """Make a host reachable from this process."""
    _routes[address] = route


def remove_route(address: str) -> None:
    """Forget a host."""
    _routes.pop(address, None)


def is_taken(address: str) -> bool:
    """Return whether a host of this process has this address."""
    return address in _routes


def listens_at(number: int) -> None:
    """Note that this process listens at a port of its loopback address, for hosts to reach."""
    _own.add(number)


def ends_at(number: int) -> None:
    """Note that it does not any more."""
    _own.discard(number)


def is_own(number: int) -> bool:
    """Return whether hosts may be connected to this port: to nothing else of this machine."""
    return number in _own


def own_folder() -> str:
    """Return the folder of this host's sockets; empty if this process is not on such a host."""
    return os.environ.get(FOLDER, "")


def own_address() -> str:
    """Return the address of the host of this process."""
    return os.environ.get(ADDRESS) or DRIVER


async def dial(address: str, number: int) -> socket.socket:
    """Return a non-blocking socket that is connected to a part of a cluster.

    Raises
    ------
    OSError
        Nobody listens there, or there is no way.
    """
    if (route := _routes.get(address)) is not None:
        return await route.dial(number)
    folder = own_folder()
    if not folder or (address == DRIVER and number in _own):
        if address == DRIVER:
            return await connected_port(number)
        raise OSError(f"{address} is a host of a cluster of another process, which reaches it")
    if address == own_address():
        return await _connected(os.path.join(folder, str(number)))
    sock = await _connected(os.path.join(folder, TO_DRIVER))
    try:
        await _ask(sock, f"{address} {number}\n".encode())
    except BaseException:
        sock.close()
        raise
    return sock


async def _ask(sock: socket.socket, line: bytes) -> None:
    """Name the part of the cluster to connect to, and wait until it is connected."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, line)
    answer = b""
    # Byte by byte, as what follows is not for this function.
    while not answer.endswith(b"\n") and len(answer) < LINE:
        byte = await loop.sock_recv(sock, 1)
        if not byte:
            raise OSError("the connection to the driver has ended")
        answer += byte
    if answer != ACCEPTED:
        raise OSError(answer.decode(errors="replace").strip())


async def _connected(path: str) -> socket.socket:
    pause = _FULL
    while True:
        try:
            return connected_socket(path)
        except BlockingIOError:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _FULL_AT_MOST)


async def connected_port(number: int) -> socket.socket:
    """Return a non-blocking socket that is connected to a port of this machine.

    Raises
    ------
    OSError
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (DRIVER, number))
    except BaseException:
        sock.close()
        raise
    return sock
