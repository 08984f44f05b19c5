"""Whoever has proved nothing holds and fills nothing of a scheduler or a runner."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import dask.config
import pytest
from distributed.comm.addressing import parse_host_port
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from dask_flame.core import guarded_server
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

#: Without limits, one waits an hour for the headers of a request, and forever for a handshake.
WITHIN = 60
#: More than the buffers of the kernel take.
_MUCH = 99 << 20


def connection_to(port: int, first: bytes = b"") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=WITHIN)
    sock.sendall(first)
    return sock


def sent_of_body(port: int, path: str = "/health") -> int:
    """Return how much of a large body a server takes."""
    begin = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {_MUCH}\r\n\r\n"
    sent = 0
    with connection_to(port, begin.encode()) as sock, contextlib.suppress(OSError):
        while sent < _MUCH:
            sock.sendall(bytes(1 << 20))
            sent += 1 << 20
    return sent


def is_closed(sock: socket.socket) -> bool:
    """Wait for the other side to close a connection."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while sock.recv(1 << 16):
            pass
    return True


def are_closed(socks: list[socket.socket]) -> int:
    """Return how many connections the other side has closed."""
    closed = 0
    for sock in socks:
        with contextlib.suppress(BlockingIOError):
            sock.setblocking(False)
            with contextlib.suppress(ConnectionResetError):
                if sock.recv(1):
                    continue
            closed += 1
    return closed


@pytest.fixture
def connections() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def test_neither_scheduler_nor_runner_takes_a_large_body(flame: Any) -> None:
    cluster, client = flame(max=1, dashboard_address="127.0.0.1:0")
    assert client.submit(abs, -1).result() == 1
    ports = list(client.run(lambda dask_worker: dask_worker.http_server.port).values())
    for port in (cluster.scheduler.http_server.port, *ports):
        # What the kernel has buffered when the connection is closed is not memory of the process.
        assert sent_of_body(port) < _MUCH // 2
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=WITHIN) as answer:
            assert answer.read() == b"ok"


def test_headers_and_bodies_have_a_time(
    flame: Any, monkeypatch: pytest.MonkeyPatch, connections: contextlib.ExitStack
) -> None:
    monkeypatch.setattr(guarded_server, "HEADERS_WITHIN", 0.2)
    monkeypatch.setattr(guarded_server, "BODY_WITHIN", 0.2)
    cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    port = cluster.scheduler.http_server.port
    for first in (
        b"",
        b"GET /x HTTP/1.1\r\nHost: a\r\nX: ",
        b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1234",
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",  # and then no second request
    ):
        assert is_closed(connections.enter_context(connection_to(port, first))), first


def test_the_oldest_request_makes_room_and_websockets_stay(
    flame: Any, monkeypatch: pytest.MonkeyPatch, connections: contextlib.ExitStack
) -> None:
    monkeypatch.setattr(guarded_server, "MOST_REQUESTS", 8)
    cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    server = cluster.scheduler.http_server
    address = f"127.0.0.1:{server.port}"

    async def follow() -> Any:
        page = HTTPRequest(f"ws://{address}/eventstream", headers={"Origin": f"http://{address}"})
        return await websocket_connect(page)

    followed = cluster.sync(follow)
    half = b"GET /x HTTP/1.1\r\nHost: a\r\nX: "
    held = [connections.enter_context(connection_to(server.port, half)) for _ in range(20)]
    wait_for(lambda: are_closed(held) == 12)
    assert are_closed(held[:12]) == 12
    # Others are answered, also again and again.
    for _ in range(20):
        with urlopen(f"http://{address}/health", timeout=WITHIN) as answer:
            assert answer.read() == b"ok"
    assert followed.protocol is not None
    cluster.sync(close, followed)


async def close(websocket: Any) -> None:
    websocket.close()


def test_dasks_own_routes_take_their_bodies(flame: Any) -> None:
    routes = [
        *dask.config.get("distributed.scheduler.http.routes"),
        "distributed.http.scheduler.api",
    ]
    with dask.config.set({"distributed.scheduler.http.routes": routes}):
        cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    # The names of a thousand runners.
    names = [f"tls://10.0.{n >> 8}.{n & 255}:40000" for n in range(1000)]
    asked = Request(
        f"http://127.0.0.1:{cluster.scheduler.http_server.port}/api/v1/retire_workers",
        data=json.dumps({"workers": names}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urlopen(asked, timeout=WITHIN) as answer:
        assert json.loads(answer.read()) == {}


def test_a_tls_handshake_has_a_time_and_the_oldest_makes_room(
    flame: Any, monkeypatch: pytest.MonkeyPatch, connections: contextlib.ExitStack
) -> None:
    monkeypatch.setattr(guarded_server, "MOST_HANDSHAKES", 8)
    monkeypatch.setattr(guarded_server, "HANDSHAKE_WITHIN", 4.0)
    cluster, client = flame(max=1, security=True)
    _, port = parse_host_port(cluster.scheduler_address.partition("://")[2])
    held = [connections.enter_context(connection_to(port)) for _ in range(20)]
    wait_for(lambda: are_closed(held) >= 12)
    # Those with a certificate come in, and stay for longer than a handshake may take.
    before = client.submit(os.getpid).result()
    wait_for(lambda: are_closed(held) == 20)
    assert client.submit(os.getpid, pure=False).result() == before
