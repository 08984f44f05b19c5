"""Ports of pods, forwarded through the API server over a WebSocket (test process)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiohttp import WSMsgType, web

from tests.fakes.kubernetes.errors import Refused, bad_request

PROTOCOLS = ("v4.channel.k8s.io", "portforward.k8s.io")


async def forward(request: web.Request, pod: dict[str, Any]) -> web.WebSocketResponse:
    """Pass bytes between a WebSocket and ports of a pod, until either side ends.

    Each port has two channels, whose number is the first byte of each message: one for data, one
    on which the server tells of errors. The first message on each is the port's number, in two
    bytes. As in ``k8s.io/kubelet/pkg/cri/streaming/portforward``.
    """
    said = request.query.getall("ports", [])
    ports = [int(port) for text in said for port in text.split(",") if port.isdigit()]
    if not ports:
        raise bad_request('query parameter "ports" is required')
    if pod["status"]["phase"] != "Running":
        raise Refused(
            500, f"unable to forward port because pod is not running: {pod['status']['phase']}"
        )
    socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=2**24)
    await socket.prepare(request)
    writers: dict[int, asyncio.StreamWriter] = {}
    readers: list[asyncio.Task[None]] = []
    try:
        for index, port in enumerate(ports):
            for channel in (2 * index, 2 * index + 1):
                await socket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
            try:
                address = pod["status"]["podIP"]
                reader, writers[2 * index] = await asyncio.open_connection(address, port)
            except OSError as error:
                text = (
                    f"error forwarding port {port} to pod {pod['metadata']['uid']}, uid : failed "
                    f"to connect to localhost:{port} inside namespace: {error.strerror}"
                )
                await socket.send_bytes(bytes([2 * index + 1]) + text.encode())
                continue
            task = asyncio.ensure_future(_read(reader, socket, 2 * index))
            readers.append(task)
        async for message in socket:
            if message.type == WSMsgType.BINARY and message.data:
                writer = writers.get(message.data[0])
                if writer is not None:
                    writer.write(message.data[1:])
                    await writer.drain()
    except OSError:
        pass  # one side has gone
    finally:
        for task in readers:
            task.cancel()
        for writer in writers.values():
            writer.close()
        await asyncio.gather(*readers, return_exceptions=True)
    return socket


async def _read(reader: asyncio.StreamReader, socket: web.WebSocketResponse, channel: int) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            await socket.send_bytes(bytes([channel]) + data)
    await socket.close()
