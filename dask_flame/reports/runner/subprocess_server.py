"""Where processes that a call has started bring their reports: a port of this machine (runner).

A conversation is lines of JSON. The first names a call by a secret that only who was given it
knows; each further one is a report, or a complaint. Each is answered, so that what a process has
reported before it ends is in the runner's buffer before its call ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
from typing import TYPE_CHECKING, Any

from dask_flame.reports.wire import RunningCall

if TYPE_CHECKING:
    from dask_flame.reports.runner.sender import ReportSender

#: Calls that can be known at a time; beyond it, the oldest are no longer.
_MOST_CALLS = 1_000
#: Bytes of one line.
_MOST = 1 << 20


class SubprocessServer:
    """The runner's end. It opens a port when the first call is bound.

    Parameters
    ----------
    sender : ReportSender
    loop : tornado.ioloop.IOLoop
        The worker's.
    """

    def __init__(self, sender: ReportSender, loop: Any) -> None:
        self._sender = sender
        self._loop = loop
        self._calls: dict[str, RunningCall] = {}
        self._port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._closed = False

    def bind(self, call: RunningCall) -> tuple[int, str]:
        """The port, and the secret by which this call is known there; in any thread."""
        if not self._port:
            # Here, so that nobody has to wait for the loop; it takes up what comes meanwhile.
            listening = socket.create_server(("127.0.0.1", 0), backlog=128)
            self._port = listening.getsockname()[1]
            self._loop.add_callback(self._listen, listening)
        secret = secrets.token_hex(16)
        self._calls[secret] = call
        while len(self._calls) > _MOST_CALLS:
            del self._calls[next(iter(self._calls))]
        return self._port, secret

    def close(self) -> None:
        """Listen to nobody any more; on the event loop."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.close()

    async def _listen(self, listening: socket.socket) -> None:
        if self._closed:
            listening.close()
            return
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=_MOST)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            # What is not ours gets no answer.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                call = self._calls[json.loads(await reader.readline())]
                writer.write(b"\n")
                while line := await reader.readline():
                    self._take(call, **json.loads(line))
                    writer.write(b"\n")
        finally:
            self._writers.discard(writer)
            writer.close()

    def _take(
        self,
        call: RunningCall,
        step: int | None = None,
        values: dict[str, float] | None = None,
        aside: bool = False,
        about: str = "",
        complaint: str = "",
    ) -> None:
        if values:
            numbers = {str(name): float(v) for name, v in values.items()}
            self._sender.add(call, step, numbers, aside=aside)
        if complaint:
            # That process has said it where it is.
            self._sender.complain(call, about, complaint, here=False)
