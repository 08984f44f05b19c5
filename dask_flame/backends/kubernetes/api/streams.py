"""The byte stream of a forwarded port, over a WebSocket to the API server (driver)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx_ws

#: The WebSocket subprotocol in which the first byte of a message is the channel.
PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = b"\0", b"\1"


class PortStream:
    """A byte stream to and from a pod's port.

    A port has two channels, 0 for data and 1 for errors. The first message on each contains the
    port's number in two bytes; see ``k8s.io/kubelet/pkg/cri/streaming/portforward``.

    Parameters
    ----------
    socket : httpx_ws.AsyncWebSocketSession
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    async def send(self, data: bytes) -> None:
        try:
            await self._socket.send_bytes(_DATA + data)
        except httpx_ws.HTTPXWSException as error:
            raise ConnectionError(str(error)) from error

    async def end(self) -> None:
        """End the stream, in both directions: the protocol cannot end a single one."""
        with contextlib.suppress(httpx_ws.HTTPXWSException):
            await self._socket.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        begun = set()
        while True:
            try:
                message: bytes = await self._socket.receive_bytes()
            except httpx_ws.HTTPXWSException:
                return  # closed or broken: the same for a byte stream
            channel, data = message[:1], message[1:]
            if channel not in begun:
                begun.add(channel)
            elif channel == _DATA:
                yield data
            elif channel == _ERROR and data:
                raise ConnectionError(data.decode(errors="replace"))
