"""Numbered messages that are kept until the other side has taken them in (all places). No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class Unconfirmed(Generic[T]):
    """Messages in order, numbered from 0, without those that are confirmed.

    What both conversations that survive a broken connection are made of: the one of a Client with a
    leased scheduler (:mod:`dask_flame.lease.outbox`), and the one of a driver with its scheduler's
    pod (:mod:`dask_flame.core.channel`). A connection that replaces a broken one begins with the
    number of messages that each side has taken in; the rest is sent again.

    Attributes
    ----------
    start : int
        Number of the first message here: as many are confirmed, or given up.

    Examples
    --------
    >>> said = Unconfirmed()
    >>> said.add("a"), said.add("b"), said.add("c")
    (0, 1, 2)
    >>> said.confirm(1)
    ['a']
    >>> said.start, list(said.since(2))
    (1, ['c'])
    """

    def __init__(self) -> None:
        self.start = 0
        self._kept: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[T]:
        return iter(self._kept)

    @property
    def next(self) -> int:
        """Number of the message that will be added next."""
        return self.start + len(self._kept)

    def add(self, message: T) -> int:
        """Keep a message; return its number."""
        self._kept.append(message)
        return self.next - 1

    def since(self, number: int) -> Iterator[T]:
        """Yield the messages from this number on."""
        return islice(self._kept, max(0, number - self.start), None)

    def confirm(self, taken: int) -> list[T]:
        """Forget the messages below this number; return them."""
        gone = []
        while self._kept and self.start < taken:
            gone.append(self._kept.popleft())
            self.start += 1
        return gone

    def clear(self) -> None:
        """Forget all messages."""
        self.confirm(self.next)
