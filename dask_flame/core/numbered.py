"""Numbered messages, kept until the other side confirms them (all places). No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class Unconfirmed(Generic[T]):
    """Messages in order, numbered from 0, without the confirmed ones.

    This is the basis of both protocols that survive a broken connection: between a Client and a
    leased scheduler (:mod:`dask_flame.lease.outbox`), and between a driver and its scheduler's pod
    (:mod:`dask_flame.core.channel`). On a new connection, each side first sends the number of
    messages that it has received; the other side then sends the rest again.

    Attributes
    ----------
    start : int
        Number of the first message here; all earlier ones are confirmed or given up.

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
        """Number of the next message to be added."""
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
