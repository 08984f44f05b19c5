"""What the HTTP servers of the fakes have in common: to listen, to be away, to fail (test process).

The port stays the server's own while it refuses connections.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

from aiohttp import web

R = TypeVar("R")


@dataclass
class Fault(ABC, Generic[R]):
    """How the next requests that match are answered.

    Attributes
    ----------
    match : str or callable
        A pattern, see `_fits`, or a function of the request.
    status : int or None
        None cuts the connection.
    left : int
        How many more requests it takes.
    retry_after : float or None
        Seconds that the answer asks to wait.
    after : bool
        Whether the request is carried out first: only its answer is lost.
    hang : float
        Seconds before it answers; the client's timeout may be shorter.
    """

    match: str | Callable[[R], bool]
    status: int | None
    left: int
    retry_after: float | None = None
    after: bool = False
    hang: float = 0.0

    def takes(self, request: R) -> bool:
        """Return whether it takes this request, and count it if so."""
        if self.left <= 0 or not self._matches(request):
            return False
        self.left -= 1
        return True

    def _matches(self, request: R) -> bool:
        if callable(self.match):
            return self.match(request)
        return self._fits(request, self.match)

    @abstractmethod
    def _fits(self, request: R, pattern: str) -> bool:
        """Return whether a pattern, in the words of this API, means the request."""

    @abstractmethod
    def refusal(self) -> Exception:
        """Return the answer, to be raised."""


class HttpServer(ABC, Generic[R]):
    """Listens on a port of this computer, and answers as it is told to.

    Parameters
    ----------
    max_body : int
        Bytes of a request.

    Attributes
    ----------
    port : int
    delay : float
        Seconds before each answer.
    faults : list of Fault
    """

    def __init__(self, *, max_body: int) -> None:
        self.faults: list[Fault[R]] = []
        self.delay = 0.0
        self.port = 0
        self._max_body = max_body
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._reserved: socket.socket | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=self._max_body)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        # Bound without listening: nobody else gets the port while connections are refused.
        self._reserved = self._bound(0)
        self.port = self._reserved.getsockname()[1]
        await self.up()

    async def up(self) -> None:
        if self._site is None:
            assert self._runner is not None
            self._site = web.SockSite(self._runner, self._bound(self.port))
            await self._site.start()

    async def down(self) -> None:
        """Refuse connections, and cut those there are."""
        if self._site is not None:
            site, self._site = self._site, None
            self._cut()
            await site.stop()
            self._cut()

    async def close(self) -> None:
        await self.down()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._reserved is not None:
            self._reserved.close()

    @abstractmethod
    async def _answer(self, request: web.Request) -> web.StreamResponse: ...

    def _fault(self, said: R) -> Fault[R] | None:
        """Return the fault that takes this request."""
        return next((fault for fault in self.faults if fault.takes(said)), None)

    async def _fail(self, request: web.Request, fault: Fault[R]) -> NoReturn:
        """Answer with a fault."""
        if fault.hang:
            await asyncio.sleep(fault.hang)
        if fault.status is None:
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError
        raise fault.refusal()

    def _bound(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    def _cut(self) -> None:
        server = self._runner and self._runner.server
        for connection in list(server.connections) if server else ():
            if connection.transport is not None:
                connection.transport.abort()
