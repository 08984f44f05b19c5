"""Pause a server that has no free descriptor for a new connection (scheduler, runner).

By default, tornado retries at once for as long as a connection is pending, and logs a traceback
each time: several thousand a second, which leaves no time for anything else.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from tornado.ioloop import IOLoop

logger = logging.getLogger("dask_flame")

#: Errors of `accept` when the process or the machine is out of descriptors or memory.
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Seconds until the next attempt; clients wait meanwhile.
_PAUSE = 1.0
#: Connections to accept in a row before the event loop does anything else.
_IN_A_ROW = 128


class AcceptBackoff:
    """Accept connections on the current event loop, with pauses after errors.

    Parameters
    ----------
    sock : socket.socket
        A listening, non-blocking socket.
    take : callable
        Called with each connection and its address.
    """

    def __init__(self, sock: socket.socket, take: Callable[[socket.socket, Any], None]) -> None:
        self._sock = sock
        self._take = take
        self._loop = IOLoop.current()
        self._stopped = False
        self._said = False
        self._listen()

    def stop(self) -> None:
        """Accept no more connections."""
        if not self._stopped:
            self._stopped = True
            self._loop.remove_handler(self._sock)

    def _listen(self) -> None:
        if not self._stopped:
            self._loop.add_handler(self._sock, self._accept, IOLoop.READ)

    def _accept(self, *args: Any) -> None:
        for _ in range(_IN_A_ROW):
            if self._stopped:
                return
            try:
                connection, address = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._wait(error)
                return
            self._take(connection, address)

    def _wait(self, error: OSError) -> None:
        self._loop.remove_handler(self._sock)
        self._loop.call_later(_PAUSE, self._listen)
        if not self._said:
            self._said = True
            logger.error(
                "no connection can be accepted on %s (%s): whoever wants one waits until "
                "there is room; start with a higher `ulimit -n`, or with fewer runners (max=)",
                _shown(self._sock),
                error.strerror,
            )


def _shown(sock: socket.socket) -> str:
    where = sock.getsockname()
    return f"port {where[1]}" if isinstance(where, tuple) else str(where)
