"""The communication scheme ``flame-ssh://`` for distributed: TLS over SSH (all places).

See :mod:`dask_flame.backends.ssh.routes` for what an address means, and how it is reached. On top
of that is TLS with the certificates of the cluster, from end to end, as for runners elsewhere.
Listed in the entry points of the group ``distributed.comm.backends``; runners import this module
before they connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import socket
import ssl
import sys
from typing import Any

from distributed.comm import registry
from distributed.comm.addressing import parse_host_port, unparse_host_port
from distributed.comm.core import BaseListener, Comm, CommClosedError, Connector
from distributed.comm.tcp import MAX_BUFFER_SIZE, TCP, TLS
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError
from tornado.netutil import ssl_wrap_socket

from dask_flame.backends.ssh import routes
from dask_flame.core.accept_backoff import AcceptBackoff
from dask_flame.core.socket_paths import listening_socket
from dask_flame.core.unproven import HANDSHAKE_WITHIN, MOST_HANDSHAKES, Unproven

SCHEME = "flame-ssh"
PREFIX = f"{SCHEME}://"
_BACKLOG = 2048
#: Names of sockets on a host look like ports, so that distributed takes them for such.
_FIRST, _LAST = 1024, 65535


class SshComm(TLS):
    """A connection with TLS."""


class PlainComm(TCP):
    """A connection without TLS, which no cluster has: for tests of a backend."""


class SshConnector(Connector):
    """Connects to the scheduler of a cluster, and to runners on its hosts."""

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        """Connect to a location: the address of a host, and a number.

        Raises
        ------
        OSError
            Nobody listens there, or the certificates do not fit.
        RuntimeError
            A connection without TLS was asked for, and TLS is required.
        """
        host, number = parse_host_port(address)
        context = _context(address, connection_args)
        sock = await routes.dial(host, number)
        stream = IOStream(sock, max_buffer_size=MAX_BUFFER_SIZE)
        local, peer = PREFIX + unparse_host_port(routes.own_address(), 0), PREFIX + address
        if context is None:
            return PlainComm(stream, local, peer, deserialize)
        try:
            stream = await stream.start_tls(False, context)
        except StreamClosedError as error:
            raise CommClosedError(f"{PREFIX}{address}: {error.real_error or error}") from error
        except ssl.SSLError as error:
            raise CommClosedError(f"{PREFIX}{address}: {error}") from error
        return SshComm(stream, local, peer, deserialize)


class SshListener(BaseListener):
    """Listens at a Unix socket of a host, or, in a driver, at a port of the loopback address."""

    prefix = PREFIX

    def __init__(
        self,
        location: str,
        comm_handler: Any,
        deserialize: bool = True,
        allow_offload: bool = True,
        **connection_args: Any,
    ) -> None:
        super().__init__()
        self._context = _context(location, connection_args)
        self._host, self._number = parse_host_port(location, 0)
        self._folder = "" if self._host == routes.DRIVER else routes.own_folder()
        self.comm_handler = comm_handler
        self.deserialize = deserialize
        self.allow_offload = allow_offload
        self._socket: socket.socket | None = None
        self._stop_accepting: Any = None
        self._handshakes: set[asyncio.Task[None]] = set()
        # On the driver's machine, all users reach its port.
        self._unproven: Unproven[asyncio.Task[None]] = Unproven(
            MOST_HANDSHAKES, asyncio.Task.cancel
        )

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        OSError
        """
        self._socket = self._listening()
        if not self._folder:
            routes.listens_at(self._number)
        self._stop_accepting = AcceptBackoff(self._socket, self._accepted).stop

    def _listening(self) -> socket.socket:
        if not self._folder:
            sock = socket.create_server((routes.DRIVER, self._number), backlog=_BACKLOG)
            sock.setblocking(False)
            self._number = sock.getsockname()[1]
            return sock
        while True:
            number = self._number or _FIRST + secrets.randbelow(_LAST - _FIRST + 1)
            try:
                sock = listening_socket(os.path.join(self._folder, str(number)), _BACKLOG)
            except OSError as error:
                if self._number or error.errno != errno.EADDRINUSE:
                    raise
            else:
                self._number = number
                return sock

    def stop(self) -> None:
        """Accept no more connections."""
        if self._socket is None:
            return
        self._stop_accepting()
        self._socket.close()
        self._socket = None
        for task in self._handshakes:
            task.cancel()
        if self._folder:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, str(self._number)))
        else:
            routes.ends_at(self._number)

    def _accepted(self, sock: socket.socket, _: object) -> None:
        task = asyncio.ensure_future(self._serve(sock))
        self._handshakes.add(task)
        task.add_done_callback(self._settled)
        self._unproven.add(task)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        self._unproven.remove(task)

    async def _serve(self, sock: socket.socket) -> None:
        peer = PREFIX + unparse_host_port("127.0.0.1", 0)
        stream: Any = sock
        kind: type[TCP] = PlainComm
        try:
            if self._context is None:
                stream = IOStream(sock, max_buffer_size=MAX_BUFFER_SIZE)
            else:
                wrapped = ssl_wrap_socket(
                    sock, self._context, server_side=True, do_handshake_on_connect=False
                )
                stream, kind = SSLIOStream(wrapped, max_buffer_size=MAX_BUFFER_SIZE), SshComm
                async with asyncio.timeout(HANDSHAKE_WITHIN):
                    await stream.wait_for_handshake()
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "real_error", None) or error
            # Whoever gives up, as a runner does that is ended, closes the connection.
            gone = not isinstance(why, ssl.SSLError) or isinstance(why, ssl.SSLEOFError)
            level = logging.DEBUG if gone else logging.WARNING
            _logger.log(level, "a TLS handshake at %s failed: %s", self.listen_address, why)
            stream.close()
            return
        except BaseException:
            stream.close()
            raise
        comm = kind(stream, self.listen_address, peer, self.deserialize)
        comm.allow_offload = self.allow_offload
        # From here on the connection outlives the listener, as it does with TCP.
        task = asyncio.current_task()
        assert task is not None
        self._settled(task)
        try:
            await self.on_connection(comm)
        except CommClosedError:
            return
        await self.comm_handler(comm)

    @property
    def listen_address(self) -> str:
        return PREFIX + str(unparse_host_port(self._host, self._number))

    @property
    def contact_address(self) -> str:
        return self.listen_address


class SshScheme(registry.Backend):
    """TLS over SSH as a communication backend of distributed."""

    def get_connector(self) -> SshConnector:
        return SshConnector()

    def get_listener(
        self, loc: str, handle_comm: Any, deserialize: bool, **connection_args: Any
    ) -> SshListener:
        return SshListener(loc, handle_comm, deserialize, **connection_args)

    def get_address_host(self, loc: str) -> str:
        # distributed also serves pages there. Only Linux has all addresses of this network.
        return str(parse_host_port(loc)[0]) if sys.platform == "linux" else routes.DRIVER

    def get_address_host_port(self, loc: str) -> tuple[str, int]:
        host, number = parse_host_port(loc)
        return str(host), int(number)

    def resolve_address(self, loc: str) -> str:
        return loc

    def get_local_address_for(self, loc: str) -> str:
        return routes.own_address()


def _context(address: str, connection_args: dict[str, Any]) -> ssl.SSLContext | None:
    """Return the TLS context of a connection; None if it is to be without TLS."""
    context = connection_args.get("ssl_context")
    if context is None and connection_args.get("require_encryption"):
        raise RuntimeError(f"encryption is required, and {PREFIX}{address} was given no context")
    assert context is None or isinstance(context, ssl.SSLContext)
    return context


def _concerns_sockets(record: logging.LogRecord) -> bool:
    """Return whether a log record is of use: Unix sockets have no timeouts of TCP."""
    return not str(record.msg).startswith("Could not set timeout on TCP stream")


def register() -> None:
    """Make the scheme known in this process, without the search for entry points."""
    if SCHEME not in registry.backends:
        registry.backends[SCHEME] = SshScheme()
        logging.getLogger("distributed.comm.tcp").addFilter(_concerns_sockets)


_logger = logging.getLogger("dask_flame")
register()
