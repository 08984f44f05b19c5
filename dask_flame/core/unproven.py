"""Connections whose other side has not proved who it is (all places).

Whoever reaches a listening socket can open connections and say nothing. Each has a time to prove
itself, and there are only so many at once: the oldest makes room for the newest, so that nobody can
keep others out by holding all places.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

#: Seconds for a TLS handshake: those who connect with Dask's protocol wait no longer, by default.
HANDSHAKE_WITHIN = 30.0
#: Handshakes at once; more than a wave of runners needs, as each takes milliseconds.
MOST_HANDSHAKES = 1024
#: Connections at once through a port of the loopback address that leads to another machine. A
#: driver and its clients have a few, and a browser six. Those that come later are refused.
MOST_FORWARDED = 128

_C = TypeVar("_C", bound=Hashable)


class Unproven(Generic[_C]):
    """Keep at most so many connections that have proved nothing.

    Parameters
    ----------
    most : int
    close : callable
        Called with the oldest connection when there are too many.
    is_settled : callable, optional
        Whether a connection has proved itself, or ended, meanwhile. Without it, :meth:`remove` is
        called when that happens.
    """

    def __init__(
        self,
        most: int,
        close: Callable[[_C], object],
        is_settled: Callable[[_C], bool] = lambda connection: False,
    ) -> None:
        self._most = most
        self._close = close
        self._is_settled = is_settled
        self._open: dict[_C, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: _C) -> None:
        """Take a new connection, and close the oldest if there are too many."""
        self._open[connection] = None
        while len(self._open) > self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            if not self._is_settled(oldest):
                self._close(oldest)

    def remove(self, connection: _C) -> None:
        """Forget a connection that has proved itself, or has ended."""
        self._open.pop(connection, None)
