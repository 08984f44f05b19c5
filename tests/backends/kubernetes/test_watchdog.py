"""What watches over a driver from a pod of its own: it ends when nobody listens any more."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from dask_flame.backends.kubernetes import watchdog

pytestmark = pytest.mark.process


def kept(port: int, grace: float) -> tuple[threading.Thread, float]:
    thread = threading.Thread(target=watchdog.keep, args=("127.0.0.1", port, grace))
    thread.start()
    return thread, time.monotonic()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_PAUSE", 0.05)


def test_it_stays_as_long_as_somebody_listens_though_connections_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread, _ = kept(server.getsockname()[1], 0.0)
        for _ in range(3):
            connection, _ = server.accept()
            connection.close()  # a listener may have enough of one that says nothing
        connection, _ = server.accept()
        assert thread.is_alive()
    # The process is gone: its port first, as when it is killed.
    connection.close()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_it_ends_after_the_grace_when_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    thread, begun = kept(port, 0.5)
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert time.monotonic() - begun >= 0.5


def test_one_that_is_out_of_reach_has_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[float] = []

    def unreachable(*args: object, **kwargs: object) -> socket.socket:
        attempts.append(time.monotonic())
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(watchdog, "_PATIENCE", 2.0)
    thread, begun = kept(1, 0.0)
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert attempts[-1] - begun > 1.0


def test_what_is_said_to_it_does_not_matter() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread, _ = kept(server.getsockname()[1], 0.0)
        connection, _ = server.accept()
        connection.sendall(b"x" * 10_000)
        with contextlib.suppress(TimeoutError):
            server.settimeout(0.3)
            server.accept()
            pytest.fail("it has let go of the connection")
        assert thread.is_alive()
    connection.close()
    thread.join(timeout=60)
