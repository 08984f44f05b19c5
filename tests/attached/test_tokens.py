"""A connection that others reach is open to those with the token alone."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dask_flame
from dask_flame.attached import tokens
from dask_flame.attached.places import LOOPBACK, PORTS, listen_to_ports
from dask_flame.attached.tokens import TOKEN, check_token, prove_to_application, prove_to_notebook
from dask_flame.attached.wire import Broken, SocketWire
from dask_flame.errors import AttachError
from tests.fakes.kubernetes import FakeKubernetes
from tests.support import kubernetes_help as kube
from tests.support.applications import SHOP, program
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

MINE = "m" * 40
OTHER = "o" * 40


def both(
    notebook: Callable[[socket.socket], Any], application: Callable[[socket.socket], Any]
) -> tuple[Any, Any]:
    """Run both sides of a connection; return what each returns or raises."""
    one, other = socket.socketpair()
    results: dict[int, Any] = {}

    def run(number: int, side: Callable[[socket.socket], Any], sock: socket.socket) -> None:
        try:
            results[number] = side(sock)
        except (AttachError, OSError) as error:
            sock.close()
            results[number] = error

    thread = threading.Thread(target=run, args=(1, application, other))
    thread.start()
    run(0, notebook, one)
    thread.join()
    one.close()
    other.close()
    return results[0], results[1]


def test_both_sides_prove_the_token() -> None:
    token = MINE.encode()
    here, there = both(
        lambda sock: prove_to_application(sock, token), lambda sock: prove_to_notebook(sock, token)
    )
    for sender, receiver in ((here, there), (there, here)):
        first, second = (sender.of_sent(text) for text in (b"a", b"a"))
        assert first != second  # a message cannot be played again
        assert receiver.is_genuine(b"a", first)
        assert not receiver.is_genuine(b"b", second)


def test_another_token_proves_nothing() -> None:
    here, there = both(
        lambda sock: prove_to_application(sock, OTHER.encode()),
        lambda sock: prove_to_notebook(sock, MINE.encode()),
    )
    assert isinstance(here, AttachError)
    assert isinstance(there, AttachError)

    def impostor(sock: socket.socket) -> None:
        sock.sendall(tokens._GREETING + bytes(32))
        sock.recv(64)
        sock.sendall(bytes(32))

    here, _ = both(lambda sock: prove_to_application(sock, MINE.encode()), impostor)
    assert isinstance(here, AttachError)


def test_a_message_that_was_changed_is_not_read() -> None:
    token = MINE.encode()

    def notebook(sock: socket.socket) -> None:
        seal = prove_to_application(sock, token)

        class Changing:
            def sendall(self, data: bytes) -> None:
                sock.sendall(data.replace(b"kind", b"evil"))

            def __getattr__(self, name: str) -> Any:
                return getattr(sock, name)

        wire = SocketWire(Changing(), seal=seal)  # type: ignore[arg-type]
        wire.send({"do": "nothing"})
        wire.send({"do": "kind"})

    def application(sock: socket.socket) -> list[Any]:
        wire = SocketWire(sock, seal=prove_to_notebook(sock, token))
        first = wire.receive()
        try:
            return [first, wire.receive()]
        except Broken as error:
            return [first, str(error)]

    _, received = both(notebook, application)
    assert received[0] == ({"do": "nothing"}, b"")
    assert received[1] == "a message was changed on its way"


def test_a_token_is_long_and_there_is_none_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_token(None) is None
    monkeypatch.setenv(TOKEN, MINE)
    assert check_token(None) == MINE.encode()
    with pytest.raises(AttachError, match="less than 16 characters") as caught:
        dask_flame.expose("shop", token="swordfish")
    assert "swordfish" not in str(caught.value)
    with pytest.raises(AttachError, match="is not the number of a port"):
        dask_flame.expose("shop", port=0)


@pytest.fixture
def port() -> int:
    """The first of some ports, which is free."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        number: int = sock.getsockname()[1]
    return min(number, 2**16 - PORTS - 1)


def test_each_process_has_a_port(port: int) -> None:
    first, second = listen_to_ports("shop", port), listen_to_ports("shop", port)
    assert port <= first.getsockname()[1] < second.getsockname()[1] < port + PORTS
    assert first.getsockname()[0] == second.getsockname()[0] == LOOPBACK
    first.close()
    second.close()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster with a running pod, which has this machine's ports."""
    with FakeKubernetes().in_thread() as fake:
        monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
        with kube.Caller(fake) as caller:
            caller.make(kube.pod(code=kube.SLEEP, metadata={"labels": {"app": "shop"}}))
        kube.reaches(fake, "Running")
        yield fake


def test_an_application_in_a_pod(
    fake: FakeKubernetes, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, MINE)
    source = SHOP.replace('expose("shop")', f'expose("shop", port={port})')
    with program(source, tmp_path / "shop.py") as running:
        where = port_of(running.pid)
        with dask_flame.attach("shop@kubernetes", port=where) as app:
            assert app.pid == running.pid
            assert app.run("print(1); x = bytes(300_000)\nbasket.goods") == ["tea"]
            assert app["x"] == bytes(300_000)
            assert set(app.complete("basket.")) == {"add", "goods", "total"}
        wait_for(lambda: "has detached" in running.log, what="the end of the attachment")
        assert "with the token, from 127.0.0.1:" in running.log
        for token, said in ((OTHER, "does not have the same token"), ("", "needs the token")):
            monkeypatch.setenv(TOKEN, token)
            with pytest.raises(AttachError, match=said):
                dask_flame.attach("shop@kubernetes", port=where)
        wait_for(lambda: "it does not have the token" in running.log, what="the entry")
        assert MINE not in running.log
        with pytest.raises(AttachError, match=r"two.*not found|No such|two"):
            dask_flame.attach("shop@kubernetes", token=MINE, port=where, pod="two")
        with pytest.raises(AttachError, match=r"no running pod has the label .*app=cart"):
            dask_flame.attach("cart@kubernetes", token=MINE, port=where)
        with pytest.raises(AttachError, match='"shop@kubernetes"'):
            dask_flame.attach("shop@mars")
        running.end()
        with pytest.raises(AttachError, match=f"{LOOPBACK}:{where}"):
            dask_flame.attach("shop@kubernetes", token=MINE, port=where)


def port_of(pid: int) -> int:
    """Return the port at which a process listens."""
    import psutil

    (one,) = [c for c in psutil.Process(pid).net_connections("inet") if c.status == "LISTEN"]
    assert one.laddr.ip == LOOPBACK
    return int(one.laddr.port)


def test_without_a_token_there_is_no_port(tmp_path: Path) -> None:
    with program(SHOP, tmp_path / "shop.py") as running:
        import psutil

        assert psutil.Process(running.pid).net_connections("inet") == []
        assert os.environ.get(TOKEN) is None
