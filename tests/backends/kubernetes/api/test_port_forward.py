"""A port of a pod on this machine, over an API server that is slow, refuses, or goes away."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dask_flame.backends.kubernetes.api import port_forward, transport
from dask_flame.backends.kubernetes.api.client import PODS, Api
from dask_flame.backends.kubernetes.api.port_forward import PortForward
from tests.fakes.kubernetes import FakeKubernetes
from tests.support import kubernetes_help as kube
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster with a pod that is running, and has this machine's ports."""
    with FakeKubernetes().in_thread() as fake:
        monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
        with kube.Caller(fake) as caller:
            caller.make(kube.pod(code=kube.SLEEP))
        kube.reaches(fake, "Running")
        yield fake


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def forward(handler: Handler, pod: str = "one") -> AsyncGenerator[tuple[PortForward, int]]:
    """A port that leads to what handles connections here; nothing of it may go wrong unheard."""
    unheard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: unheard.append(said))
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    api = await Api.connect()
    made = PortForward(api, pod, server.sockets[0].getsockname()[1])
    try:
        yield made, await made.start()
    finally:
        await made.close()
        await api.close()
        server.close()
    gc.collect()
    await asyncio.sleep(0)
    assert unheard == []


async def until(condition: Callable[[], Any]) -> None:
    await asyncio.to_thread(wait_for, condition)


async def ask(port: int, data: bytes = b"") -> bytes:
    """What comes, until the other side ends, or as much as was said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await (reader.readexactly(len(data)) if data else reader.read())
    finally:
        writer.close()


@pytest.mark.asyncio
async def test_what_is_said_last_is_heard_by_who_is_slow(fake: FakeKubernetes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(int.from_bytes(await reader.readexactly(4), "big")))
        await writer.drain()
        writer.close()

    async def listen(port: int, size: int) -> int:
        loop, heard = asyncio.get_running_loop(), 0
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            slow.setblocking(False)
            await loop.sock_connect(slow, ("127.0.0.1", port))
            await loop.sock_sendall(slow, size.to_bytes(4, "big"))
            await asyncio.sleep(0.5)  # all has been said, and waits
            while data := await loop.sock_recv(slow, 2**16):
                heard += len(data)
        return heard

    async with forward(speak) as (made, port):
        assert made._server is not None
        made._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        sizes = range(10_000, 200_000, 10_000)
        assert await asyncio.gather(*(listen(port, size) for size in sizes)) == list(sizes)


@pytest.mark.asyncio
@pytest.mark.parametrize("pod", ["nope", "one"])
async def test_what_is_refused_is_said(pod: str, fake: FakeKubernetes) -> None:
    async with forward(echo, pod) as (made, port):
        if pod == "one":
            fake.fail("get pods/portforward", status=403)
        assert await ask(port) == b""
        assert made.trouble in ('pods "nope" not found', "the server is not well")
        if pod == "one":
            assert await ask(port, b"hello") == b"hello"
            assert made.trouble == ""


@pytest.mark.asyncio
async def test_credentials_that_have_run_out(
    fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_LONGEST", 0.0)
    async with forward(echo) as (made, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        old = made._api._transport._api._session
        fake.fail("get pods/portforward", status=401)
        assert await ask(port) == b""
        # They were read again, and what is open on the old ones goes on.
        await until(lambda: made._api._transport._api._session is not old)
        assert await ask(port, b"two") == b"two"
        writer.write(b"three")
        assert await reader.readexactly(5) == b"three"
        assert not old.is_closed
        writer.close()
        await until(lambda: old.is_closed)


@pytest.mark.asyncio
async def test_a_server_that_accepts_and_says_nothing(
    fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "TIMEOUT", 0.5)
    async with forward(echo) as (made, port):
        fake.slow(60)
        for _ in range(5):
            assert await ask(port) == b""
        await until(lambda: not made._passing)
        fake.slow(0)
        # Of the connections that a session may have, none is taken up by what hung.
        assert (await made._api.get(PODS, "one"))["metadata"]["name"] == "one"
        assert await ask(port, b"hello") == b"hello"


@pytest.mark.asyncio
async def test_what_connects_as_it_closes_or_afterwards_is_closed() -> None:
    """Neither is left open, though nobody has begun to pass anything on."""
    api: Any = None
    made = PortForward(api, "one", 1)
    for _ in range(2):
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        with ours:
            made._accepted(reader, writer)
            await made.close()
            ours.settimeout(20)
            assert await asyncio.to_thread(ours.recv, 1) == b""
    assert not made._passing


@pytest.mark.asyncio
async def test_there_are_only_so_many_at_once(
    fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody on this machine reaches the port, and each needs one to the API server."""
    monkeypatch.setattr(port_forward, "MOST_FORWARDED", 2)
    async with forward(echo) as (made, port):
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for reader, _ in opened[2:]:
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(1), 60) == b""
        assert len(made._passing) == 2
        for _, writer in opened:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
