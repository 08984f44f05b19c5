"""Limits for those who connect to a scheduler or a worker (scheduler, runner).

Anybody who reaches their ports can connect: another user of the machine, or a program in the
network. Without limits, such a program fills the memory of the process with the bodies of requests,
or uses up its descriptors with connections over which nothing is said. All listening sockets of a
server get their limits here, before the event loop accepts the first connection. Nothing here is
done for a message.
"""

from __future__ import annotations

from typing import Any

from distributed.node import ServerNode
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream
from tornado.tcpserver import TCPServer

from dask_flame.core.accept_backoff import AcceptBackoff
from dask_flame.core.distributed_internals import accept_by, replace
from dask_flame.core.unproven import HANDSHAKE_WITHIN, MOST_HANDSHAKES, Unproven

#: Maximum number of bytes in the body of a request. Dask's own routes take a list of workers.
MOST_BODY = 1 << 16
#: Seconds for the headers of a request, also of the next one, and for its body.
HEADERS_WITHIN, BODY_WITHIN = 10.0, 30.0
#: Connections of browsers and programs at once that are no WebSockets.
MOST_REQUESTS = 256


class GuardedServer(ServerNode):
    """A scheduler or worker with limits for those who have not proved who they are."""

    async def listen(self, *args: Any, **kwargs: Any) -> None:
        await super().listen(*args, **kwargs)
        # Other listeners have limits of their own.
        tcp = getattr(self.listeners[-1], "tcp_server", None)
        if tcp is not None:
            _limit_handshakes(tcp)
            _accept_patiently(tcp)

    def start_http_server(self, *args: Any, **kwargs: Any) -> None:
        super().start_http_server(*args, **kwargs)
        limit_requests(self.http_server)
        _accept_patiently(self.http_server)


def limit_requests(server: HTTPServer) -> None:
    """Limit size, time and number of the requests to an HTTP server.

    Parameters
    ----------
    server : tornado.httpserver.HTTPServer
        Listens, but has not accepted a connection. Its limits are read for each connection.
    """
    limits = server.conn_params
    limits.max_body_size = MOST_BODY
    limits.header_timeout = HEADERS_WITHIN
    limits.body_timeout = BODY_WITHIN
    waiting: Unproven[IOStream] = Unproven(MOST_REQUESTS, IOStream.close)
    handle, on_close = server.handle_stream, server.on_close

    def take(stream: IOStream, address: Any) -> Any:
        waiting.add(stream)
        return handle(stream, address)

    def ended(connection: Any) -> None:
        # It is closed, or has become a WebSocket.
        waiting.remove(connection.stream)
        on_close(connection)

    replace(server, "handle_stream", take)
    replace(server, "on_close", ended)


def _limit_handshakes(tcp: TCPServer) -> None:
    """Limit time and number of the TLS handshakes of a server."""
    waiting: Unproven[SSLIOStream] = Unproven(MOST_HANDSHAKES, SSLIOStream.close, _is_settled)
    handle = tcp.handle_stream

    def take(stream: IOStream, address: Any) -> Any:
        if isinstance(stream, SSLIOStream):
            waiting.add(stream)
            IOLoop.current().call_later(HANDSHAKE_WITHIN, expire, stream)
        return handle(stream, address)

    def expire(stream: SSLIOStream) -> None:
        waiting.remove(stream)
        if not _is_settled(stream):
            stream.close()

    replace(tcp, "handle_stream", take)


def _is_settled(stream: SSLIOStream) -> bool:
    # The kernel's socket has no version of TLS before the certificates were accepted.
    return stream.closed() or stream.socket.version() is not None


def _accept_patiently(tcp: TCPServer) -> None:
    accept_by(tcp, lambda sock, handle: AcceptBackoff(sock, handle).stop)
