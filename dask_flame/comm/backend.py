"""The communication backend ``flame://`` for distributed (all places).

Listed in the entry points of the group ``distributed.comm.backends``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

from distributed.comm import registry
from distributed.comm.core import Connector, FatalCommClosedError

from dask_flame.comm.addresses import HOST, PREFIX, SCHEME, location, path_of
from dask_flame.comm.channel import Channel
from dask_flame.comm.listener import SocketListener
from dask_flame.comm.socket_comm import SocketComm, check_encryption
from dask_flame.core.peers import is_own, peer_of, user_named
from dask_flame.core.socket_paths import connected_socket

#: Seconds between two attempts to connect to a socket with a full queue.
_FULL, _FULL_AT_MOST = 0.001, 0.05


class SocketConnector(Connector):
    """Connects to Unix sockets of the same user."""

    async def connect(
        self, address: str, deserialize: bool = True, **connection_args: Any
    ) -> SocketComm:
        """Connect to a location, see :func:`dask_flame.comm.addresses.location`.

        Raises
        ------
        FatalCommClosedError
            The socket belongs to another user.
        OSError
            Nobody listens there.
        ValueError
            The location names no socket of this machine.
        """
        check_encryption(address, connection_args)
        path = path_of(address)
        if not path:
            raise ValueError(f"{PREFIX}{address} names no socket")
        sock = await self._connected(path)
        try:
            peer = peer_of(sock)
            if not is_own(peer):
                # Before anything is read: an answer would be unpickled.
                raise FatalCommClosedError(_refused(path, peer.user))
            channel = Channel(sock)
        except BaseException:
            sock.close()
            raise
        local = f"{PREFIX}{HOST}/#{os.getpid()}"
        return SocketComm(channel, local, PREFIX + address, deserialize)

    async def _connected(self, path: str) -> socket.socket:
        pause = _FULL
        while True:
            try:
                return connected_socket(path)
            except BlockingIOError:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _FULL_AT_MOST)
            except PermissionError as error:
                raise FatalCommClosedError(_refused(path, _owner(path))) from error


class SocketBackend(registry.Backend):
    """Unix sockets as a communication backend of distributed."""

    def get_connector(self) -> SocketConnector:
        return SocketConnector()

    def get_listener(
        self, loc: str, handle_comm: Any, deserialize: bool, **connection_args: Any
    ) -> SocketListener:
        return SocketListener(loc, handle_comm, deserialize, **connection_args)

    def get_address_host(self, loc: str) -> str:
        return HOST

    def resolve_address(self, loc: str) -> str:
        return loc

    def get_local_address_for(self, loc: str) -> str:
        return HOST


def _owner(path: str) -> int | None:
    """Return the owner of a socket, or of the folder that hides it."""
    while path != os.path.dirname(path):
        with contextlib.suppress(OSError):
            return os.stat(path).st_uid
        path = os.path.dirname(path)
    return None


def _refused(path: str, owner: int | None) -> str:
    of = "another user" if owner is None else user_named(owner)
    return (
        f"{PREFIX}{location(path)} belongs to {of}, and this is {user_named(os.geteuid())}: only "
        "processes of the same user may connect to a cluster on one machine"
    )


def register() -> None:
    """Make the scheme known in this process, without the search for entry points."""
    registry.backends.setdefault(SCHEME, SocketBackend())
