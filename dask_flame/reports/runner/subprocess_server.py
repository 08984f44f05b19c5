"""Receive reports from child processes of a call on a local socket (runner).

The protocol is lines of JSON. The first line is the secret of a call, which only its child
processes know. Each further line is a report or a complaint. The server acknowledges each line, so
that reports of a child process are in the runner's buffer before the call ends. The acknowledgement
is empty, or tells the child process that its call was stopped, and how.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
from typing import TYPE_CHECKING, Any

from dask_flame.reports.runner.local_socket import listen
from dask_flame.reports.wire import RunningCall

if TYPE_CHECKING:
    from dask_flame.reports.runner.sender import ReportSender

#: Maximum number of bound calls; beyond it the oldest are dropped.
_MOST_CALLS = 1_000
#: Maximum number of bytes in a line.
_MOST = 1 << 20


class SubprocessServer:
    """Server for reports of child processes; opens its socket when the first call is bound.

    Parameters
    ----------
    sender : ReportSender
    loop : tornado.ioloop.IOLoop
        Event loop of the worker.
    folder : str
        Folder of the worker, in which the socket is.
    """

    def __init__(self, sender: ReportSender, loop: Any, folder: str) -> None:
        self._sender = sender
        self._loop = loop
        self._folder = folder
        self._calls: dict[str, RunningCall] = {}
        self._address = ""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._closed = False

    def bind(self, call: RunningCall) -> tuple[str, str]:
        """Return the address and a secret for this call; may be called from any thread."""
        if not self._address:
            # Listen here, without waiting for the loop; it accepts early connections later.
            listening, self._address = listen(self._folder)
            self._loop.add_callback(self._listen, listening)
        secret = secrets.token_hex(16)
        self._calls[secret] = call
        while len(self._calls) > _MOST_CALLS:
            del self._calls[next(iter(self._calls))]
        return self._address, secret

    def close(self) -> None:
        """Stop listening and close all connections; on the event loop."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        if not self._address.isdigit():
            with contextlib.suppress(OSError):
                os.unlink(self._address)
        for writer in self._writers:
            writer.close()

    async def _listen(self, listening: socket.socket) -> None:
        if self._closed:
            listening.close()
            return
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=_MOST)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.close()
            return
        self._writers.add(writer)
        try:
            # Close the connection of any other client without an answer.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                call = self._calls[json.loads(await reader.readline())]
                writer.write(b"\n")
                while line := await reader.readline():
                    self._take(call, **json.loads(line))
                    writer.write(call.stopped.encode() + b"\n")
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
        of: float | None = None,
        described: dict[str, Any] | None = None,
    ) -> None:
        call.of = of or call.of
        if described:
            self._sender.describe(call, **described)
        if values:
            numbers = {str(name): float(v) for name, v in values.items()}
            self._sender.add(call, step, numbers, aside=aside)
        if complaint:
            # The child process has already shown it.
            self._sender.complain(call, about, complaint, here=False)
