"""Which user is at the other end of a Unix socket (all places)."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
import sys
from typing import NamedTuple

#: ``struct ucred`` of Linux, see unix(7): process, user, group.
_UCRED = struct.Struct("3i")
#: ``struct xucred`` of macOS, see sys/ucred.h: version, user, and the groups, which are not read.
_XUCRED_LEVEL, _XUCRED_NAME, _XUCRED_SIZE = 0, 1, 76
_XUCRED = struct.Struct("2I")
_is_linux = sys.platform == "linux"


class Peer(NamedTuple):
    """The process that connected, or that listens.

    Attributes
    ----------
    user : int
        Its effective user id when it did so.
    process : int
        Its process id; 0 if unknown.
    """

    user: int
    process: int


def peer_of(sock: socket.socket) -> Peer:
    """Return who is at the other end of a connected Unix socket, as the kernel knows it.

    Raises
    ------
    OSError
        The connection is gone, or the system does not tell.
    """
    if _is_linux:
        told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        process, user, _ = _UCRED.unpack(told)
        return Peer(user & 0xFFFFFFFF, process)
    told = sock.getsockopt(_XUCRED_LEVEL, _XUCRED_NAME, _XUCRED_SIZE)
    return Peer(_XUCRED.unpack_from(told)[1], 0)


def is_own(peer: Peer) -> bool:
    """Return whether a process belongs to the user of this one."""
    return peer.user == os.geteuid()


def user_named(user: int) -> str:
    """Return the name of a user, with the id."""
    with contextlib.suppress(KeyError):
        return f"{pwd.getpwuid(user).pw_name} (uid {user})"
    return f"uid {user}"
