"""Where the sockets of applications are, and which of them are alive (application, driver).

Each process of an application listens on a socket of its own, in a folder that only its user can
enter. The name of the socket has the name of the application and the process id. Whether somebody
listens is asked of the kernel: a socket whose process has ended refuses connections, and whoever
looks removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from dask_flame.core.own_folders import make_own, open_own, why_unsafe
from dask_flame.core.socket_paths import connected_socket, listening_socket
from dask_flame.errors import AttachError

#: Environment variable with the folder, for both sides.
FOLDER = "DASK_FLAME_ATTACH_FOLDER"
_PREFIX = "dask-flame-attach-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SOCKET = re.compile(rf"({_NAME.pattern})\.(\d+)\.[0-9a-f]{{8}}")
_BACKLOG = 16
LOOPBACK = "127.0.0.1"
#: The first port of an application with a token, by default.
PORT = 8790
#: Number of ports, each for a process of the application.
PORTS = 16
#: Number of sockets beyond which applications, too, look for those of dead processes, at times.
_MANY = 64


@dataclass(frozen=True)
class Instance:
    """One process of an application.

    Attributes
    ----------
    application : str
        Name of the application.
    pid : int
        Its process id, as it sees it itself.
    path : str
        Its socket.
    """

    application: str
    pid: int
    path: str


def check_name(name: object) -> str:
    """Return the name of an application if it is valid.

    Raises
    ------
    AttachError
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise AttachError(
        f"{name!r} is not a name for an application: it has letters, digits, '-', '_' and '.', at "
        'most 64, and begins with a letter or a digit; write for example dask_flame.expose("shop")'
    )


def own_folder() -> str:
    """Return the folder in which applications of this user listen."""
    return os.environ.get(FOLDER) or os.path.join(tempfile.gettempdir(), f"{_PREFIX}{os.geteuid()}")


def listen(name: str) -> tuple[socket.socket, str]:
    """Return a listening socket for this process, and its path.

    Raises
    ------
    AttachError
        The folder cannot be made, or is not this user's alone.
    """
    folder = own_folder()
    while True:
        try:
            make_own(folder)
            _check(folder)
            mark = secrets.token_hex(4)
            if mark[0] == "0" and len(os.listdir(folder)) > _MANY:
                instances()  # killed processes have left sockets behind, and nobody has looked
            path = os.path.join(folder, f"{name}.{os.getpid()}.{mark}")
            return listening_socket(path, _BACKLOG), path
        except FileNotFoundError:
            continue  # another process has just removed the empty folder
        except OSError as error:
            raise AttachError(
                f"{name} cannot be exposed: {error}; name another folder in the environment of "
                f"both sides: {FOLDER}=/a/folder/of/yours"
            ) from None


def listen_to_ports(name: str, port: int) -> socket.socket:
    """Return a socket that listens on the loopback address, at the first free one of some ports.

    Raises
    ------
    AttachError
        None of them is free.
    """
    for one in range(port, port + PORTS):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((LOOPBACK, one))
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise AttachError(f"{name} cannot listen on port {one}: {error}") from None
            continue
        return sock
    raise AttachError(
        f"{name} cannot be exposed: no port from {port} to {port + PORTS - 1} is free; write "
        'another one: dask_flame.expose("…", token=…, port=…)'
    )


def remove(path: str) -> None:
    """Remove a socket, and the folder if it was the last one in it."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def instances(name: str | None = None) -> list[Instance]:
    """Return the running instances of an application, or of all; remove sockets of dead ones."""
    found = []
    for folder in _folders():
        try:
            _check(folder)
            entries = sorted(os.listdir(folder))
        except (OSError, AttachError):
            continue
        for entry in entries:
            match = _SOCKET.fullmatch(entry)
            if match is None or (name is not None and match[1] != name):
                continue
            path = os.path.join(folder, entry)
            if _is_alive(path):
                found.append(Instance(match[1], int(match[2]), path))
    return sorted(found, key=lambda one: (one.application, one.pid))


def _folders() -> Iterator[str]:
    """Yield the folders in which applications may listen: TMPDIR of both sides may differ."""
    if os.environ.get(FOLDER):
        yield os.environ[FOLDER]
        return
    name = f"{_PREFIX}{os.geteuid()}"
    yield from dict.fromkeys(os.path.join(place, name) for place in (tempfile.gettempdir(), "/tmp"))


def _check(folder: str) -> None:
    """Raise an error if anybody else can enter the folder or replace it."""
    descriptor = open_own(folder)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
    if mode & 0o077:
        raise PermissionError(errno.EPERM, f"others may enter it (mode {mode:o})", folder)
    if why := why_unsafe(folder):
        raise PermissionError(errno.EPERM, why, folder)


def _is_alive(path: str) -> bool:
    """Return whether a process listens at a path; remove the socket if none does."""
    try:
        connected_socket(path).close()
    except BlockingIOError:
        return True  # so many connections wait that there is no room for this one
    except ConnectionRefusedError:
        # Names are not used twice, so nobody has begun to listen there meanwhile.
        remove(path)
        return False
    except OSError:
        return False
    return True
