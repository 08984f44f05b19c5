"""Watch over a driver in a cluster, until it is gone (a pod).

Run as ``python -m dask_flame.backends.kubernetes.watchdog HOST PORT GRACE``.

Kubernetes deletes what a Job owns when the Job has ended and is deleted. So all that a driver makes
is owned by a Job whose one pod does nothing but hold a connection to the driver, and ends when that
is gone. A notebook's kernel may die, and its pod live on: what the kernel had made
goes all the same, runners that have ended included.

The connection is a plain one on which nothing is said: that somebody listens is all there is to
know. Where nobody does, the driver's process is dead, and the keeper ends after GRACE seconds. A
driver that is out of reach has a minute more: its network may come back.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

#: Seconds between two attempts to connect, and that one may take.
_PAUSE = 1.0
_ATTEMPT = 10.0
#: Seconds more for a driver that cannot be reached, when it is not said that nobody listens.
_PATIENCE = 60.0


def keep(host: str, port: int, grace: float) -> None:
    """Return when the driver is gone, or has been out of reach for too long."""
    seen = time.monotonic()
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=_ATTEMPT)
        except ConnectionRefusedError:
            if time.monotonic() > seen + grace:
                return
        except OSError:
            if time.monotonic() > seen + grace + _PATIENCE:
                return
        else:
            _hold(connection)
            seen = time.monotonic()
        time.sleep(_PAUSE)


def _hold(connection: socket.socket) -> None:
    """Return when the other side is gone, or has had enough of silence."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(None)
        _look_after(connection)
        while connection.recv(4096):
            pass


def _look_after(connection: socket.socket) -> None:
    """Have the kernel find out when the other side is there no more, within a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def main(argv: list[str]) -> None:
    """Keep until the driver is gone."""
    host, port, grace = argv
    keep(host, int(port), float(grace))


if __name__ == "__main__":
    main(sys.argv[1:])
