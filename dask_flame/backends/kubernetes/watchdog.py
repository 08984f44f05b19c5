"""The watchdog: ends when its driver in the cluster is gone (a pod).

Run as ``python -m dask_flame.backends.kubernetes.watchdog HOST PORT GRACE``.

Kubernetes deletes the objects owned by a Job when the Job has ended and is deleted. Therefore all
objects of a driver are owned by a Job whose only pod holds a connection to the driver, and ends
when the driver is gone. If a notebook's kernel dies while its pod lives on, everything that the
kernel created is deleted all the same, including runners that have ended.

Nothing is sent over the connection: it only shows that the driver listens. If the connection is
refused, the driver's process is dead, and the watchdog ends after GRACE seconds. A driver that
cannot be reached has a minute more, because its network may recover.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

#: Seconds between two attempts to connect, and the timeout of an attempt.
_PAUSE = 1.0
_ATTEMPT = 10.0
#: Additional seconds for a driver that cannot be reached, but has not refused a connection.
_PATIENCE = 60.0


def keep(host: str, port: int, grace: float) -> None:
    """Return when the driver is gone, or has been out of reach for too long.

    Parameters
    ----------
    host : str
    port : int
    grace : float
        Seconds to wait after a refused connection.
    """
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
    """Return when the other side has closed the connection, or is found dead."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(None)
        _look_after(connection)
        while connection.recv(4096):
            pass


def _look_after(connection: socket.socket) -> None:
    """Have the kernel detect within a minute that the other side is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def main(argv: list[str]) -> None:
    """Run until the driver is gone."""
    host, port, grace = argv
    keep(host, int(port), float(grace))


if __name__ == "__main__":
    main(sys.argv[1:])
