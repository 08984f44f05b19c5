"""Bind and connect Unix sockets, also at long paths (all places)."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator

#: Size (bytes) of the path in ``struct sockaddr_un``, with the null byte at its end.
_ROOM = 108 if sys.platform == "linux" else 104


@contextlib.contextmanager
def short(path: str) -> Iterator[str]:
    """Yield a path of the same socket that fits into a socket's address.

    On Linux, a long path is reached through a descriptor of its folder.

    Parameters
    ----------
    path : str

    Raises
    ------
    OSError
        The folder is not there, or, on other systems, the path is too long.
    """
    if path.startswith("\0") or len(os.fsencode(path)) < _ROOM:
        yield path
        return
    if sys.platform != "linux":
        raise OSError(
            f"{path} is too long for a socket, by {len(os.fsencode(path)) - _ROOM + 1} bytes; "
            'write dask.config.set({"temporary-directory": "/tmp"})'
        )
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def listening_socket(path: str, backlog: int) -> socket.socket:
    """Return a non-blocking socket that listens at a path that only this user may connect to.

    Parameters
    ----------
    path : str
        Nothing may be there.
    backlog : int
        Number of connections that may wait to be accepted.

    Raises
    ------
    OSError
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with short(path) as place:
            sock.bind(place)
            if not path.startswith("\0"):
                os.chmod(place, 0o600)  # nobody can connect before `listen`
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def connected_socket(path: str) -> socket.socket:
    """Return a non-blocking socket that is connected to a path.

    Parameters
    ----------
    path : str

    Raises
    ------
    BlockingIOError
        So many connections wait to be accepted that there is no room for another one.
    OSError
        Nobody listens there, or this user may not connect.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with short(path) as place:
            sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock
