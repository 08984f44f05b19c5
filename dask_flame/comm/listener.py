"""Listen on a Unix socket for connections of the same user (all places)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import dask.config
from distributed.comm.core import BaseListener, Comm, CommClosedError

from dask_flame.comm.addresses import PREFIX, location, path_of
from dask_flame.comm.channel import Channel
from dask_flame.comm.socket_comm import SocketComm, check_encryption
from dask_flame.core.accept_backoff import AcceptBackoff
from dask_flame.core.own_folders import why_unsafe
from dask_flame.core.peers import Peer, is_own, peer_of, user_named
from dask_flame.core.socket_paths import listening_socket

logger = logging.getLogger("dask_flame")


class SocketListener(BaseListener):
    """Listens on a Unix socket, and accepts connections of the same user only.

    Parameters
    ----------
    location : str
        Of a socket that does not exist; or of a folder, with a slash at its end, for a new socket
        in it; or without a path, for a name in Linux's abstract namespace.
    handle_comm : callable
        Called with each connection.
    deserialize : bool
        See :class:`SocketComm`.
    allow_offload : bool, default True
        Whether a thread may read large messages.
    **connection_args
        distributed's, of which only ``require_encryption`` counts.
    """

    prefix = PREFIX

    def __init__(
        self,
        location: str,
        handle_comm: Callable[[Comm], Awaitable[None]],
        deserialize: bool,
        allow_offload: bool = True,
        **connection_args: Any,
    ) -> None:
        super().__init__()
        check_encryption(location, connection_args)
        self._wanted = path_of(location)
        self._handle_comm = handle_comm
        self._deserialize = deserialize
        self._allow_offload = allow_offload
        self._path = ""
        self._sock: socket.socket | None = None
        self._accept: AcceptBackoff | None = None
        self._handling: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        OSError
            No socket can be made there, or other users could replace it.
        """
        wanted, token = self._wanted, secrets.token_hex(4)
        if not wanted or wanted.startswith("\0"):
            if sys.platform != "linux":
                raise OSError("only Linux has sockets without a path: name a folder for the socket")
            path = wanted or f"\0dask-flame-{secrets.token_hex(16)}"
        else:
            folder = os.path.dirname(wanted)
            if why := why_unsafe(folder):
                raise PermissionError(f"no socket is put into {folder}: {why}")
            path = wanted + token if wanted.endswith("/") else wanted
        self._path = path
        self._listen()

    def _listen(self) -> None:
        backlog = int(dask.config.get("distributed.comm.socket-backlog"))
        self._sock = listening_socket(self._path, backlog)
        self._accept = AcceptBackoff(self._sock, self._take)

    def renew(self) -> None:
        """Listen again at the same path if somebody has removed the socket.

        Raises
        ------
        OSError
            Its folder was removed, too.
        """
        path = self._path
        if self._sock is None or self._accept is None or path.startswith("\0"):
            return
        if os.path.lexists(path):
            return
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"the folder {folder}, with the socket to connect to, was removed by another "
                "program, perhaps one that clears temporary folders; make the cluster again, "
                "where such a program does not go: "
                'dask.config.set({"temporary-directory": "/var/tmp"})'
            )
        # Connections that were accepted stay as they are.
        self._accept.stop()
        self._sock.close()
        self._listen()

    def stop(self) -> None:
        """Accept no more connections, and remove the socket."""
        if self._sock is None or self._accept is None:
            return
        self._accept.stop()
        with contextlib.suppress(OSError):
            # Forked children may have the socket, too, and a name would then still answer.
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._sock = None
        if not self._path.startswith("\0"):
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    @property
    def listen_address(self) -> str:
        if not self._path:
            raise ValueError("this has not begun to listen")
        return PREFIX + location(self._path)

    @property
    def contact_address(self) -> str:
        return self.listen_address

    def _take(self, sock: socket.socket, address: Any) -> None:
        """Take a connection, and close it unless it is of this user."""
        try:
            sock.setblocking(False)
            peer = peer_of(sock)
            if not is_own(peer):
                logger.warning(
                    "a connection of %s to %s was refused: only %s may connect",
                    user_named(peer.user),
                    self.listen_address,
                    user_named(os.geteuid()),
                )
                sock.close()
                return
            channel = Channel(sock)
        except OSError:
            sock.close()
            return
        task = asyncio.ensure_future(self._handle(channel, peer))
        self._handling.add(task)
        task.add_done_callback(self._handled)

    async def _handle(self, channel: Channel, peer: Peer) -> None:
        local = self.listen_address
        comm = SocketComm(channel, local, f"{local}#{peer.process}", self._deserialize)
        comm.allow_offload = self._allow_offload
        if self._sock is None:
            comm.abort()  # `stop` came in between, and distributed would not know of this one
            return
        try:
            await self.on_connection(comm)
        except CommClosedError:
            logger.debug("%r closed before its handshake", comm)
            return
        await self._handle_comm(comm)

    def _handled(self, task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a connection to %s ended", self.listen_address, exc_info=error)
