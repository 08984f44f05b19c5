"""A socket that only processes of this user can connect to (runner)."""

from __future__ import annotations

import os
import secrets
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dask_flame.core.own_folders import open_own, why_unsafe

_BACKLOG = 1024
#: Maximum number of bytes in the path of a socket: Linux has room for 107, macOS for 103.
_LONGEST = 100


def listen(folder: str) -> tuple[socket.socket, str]:
    """Listen in a folder; return the socket and its address for :func:`connect`.

    Other users cannot even connect, so that they cannot use up the connections of this process
    either. Where a folder is not for this user alone, or its path is too long for a socket, this is
    a port of the loopback interface, which is open to all users.
    """
    try:
        if not why_unsafe(folder):
            return _listen_in(folder)
    except OSError:
        pass  # no such folder, or a file system without sockets
    listening = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    return listening, str(listening.getsockname()[1])


def _listen_in(folder: str) -> tuple[socket.socket, str]:
    os.close(open_own(folder))
    path = os.path.join(folder, f"report-{secrets.token_hex(4)}")
    listening = socket.socket(socket.AF_UNIX)
    try:
        with _short(path) as name:
            listening.bind(name)
        os.chmod(path, 0o600)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening, path


def connect(address: str, timeout: float) -> socket.socket:
    """Connect to a socket; all operations end within so many seconds.

    Raises
    ------
    OSError
    """
    if address.isdigit():
        connection = socket.create_connection(("127.0.0.1", int(address)), timeout=timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    try:
        # A socket with a timeout of Python would not wait until others have been accepted.
        limit = struct.pack("ll", int(timeout), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        with _short(address) as name:
            connection.connect(name)
        connection.settimeout(timeout)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _short(path: str) -> Iterator[str]:
    """Yield a name of a path that is short enough for a socket.

    Raises
    ------
    OSError
        There is none.
    """
    if len(os.fsencode(path)) <= _LONGEST:
        yield path
        return
    if sys.platform != "linux":
        raise OSError(f"{path} is too long for a socket")
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)
