"""The messages that a driver may have to send again to its scheduler (driver). No I/O.

Messages are numbered from 0. A message is forgotten once it is known to be read. A message that was
passed to a connection may have been read or lost. The others were never sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.utils import nbytes

from dask_flame.core.numbered import Unconfirmed

Message = dict[str, Any]

#: Maximum bytes of kept messages that were sent and are not known to be read.
REMEMBERED = 256 * 2**20


class Outbox(Unconfirmed[tuple[Message, int]]):
    """The messages that are not known to be read, in order.

    Parameters
    ----------
    limit : int, default 256 MiB
        Bytes. Above this, the oldest sent messages are forgotten; if they were lost, they are not
        sent again.

    Attributes
    ----------
    handed : int
        Number of the first message that was never passed to a connection.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        super().__init__()
        self.handed = 0
        self._limit = limit
        self._bytes = 0

    def note(self, message: Message) -> None:
        """Keep a message; ``hand_over`` or ``handed_last`` marks it as sent."""
        # Keep a copy: an in-process connection passes on the message itself, which is modified.
        self._weigh(dict(message))

    def _weigh(self, message: Message) -> None:
        size = weight(message)
        self.add((message, size))
        self._bytes += size

    def hand_over(self) -> list[Message]:
        """Return all messages, in the order to send them now, and mark them as sent."""
        self.handed = self.next
        messages = [dict(message) for message, _ in self]
        self._trim()
        return messages

    def handed_last(self) -> None:
        """Mark all messages as sent."""
        self.handed = self.next
        self._trim()

    def _trim(self) -> None:
        while self._bytes > self._limit and len(self) > 1 and self.start < self.handed - 1:
            self.forget(self.start + 1)

    def forget(self, upto: int) -> None:
        """Forget the messages below this number: they were read, or are given up."""
        self._bytes -= sum(size for _, size in self.confirm(upto))

    def replace(self, change: Callable[[Message], Message]) -> None:
        """Replace each message with the result of ``change``."""
        first, messages = self.start, [message for message, _ in self]
        self.clear()
        self.start, self._bytes = first, 0
        for message in messages:
            self._weigh(change(message))

    def renumber(self) -> None:
        """Forget the sent messages, and number the others from 0."""
        self.forget(self.handed)
        self.start = self.handed = 0

    def submitted(self) -> set[Any]:
        """Return the keys of the calls that were never sent."""
        unsent = [message for message, _ in self.since(self.handed) if submits(message)]
        return {key for message in unsent for key in message["keys"]}


def submits(message: Message) -> bool:
    """Return whether a message submits calls."""
    return bool(message["op"] == "update-graph")


def weight(message: Message) -> int:
    """Return the approximate bytes of memory that a message uses."""
    if submits(message):
        return 1024 + sum(int(nbytes(frame)) for frame in message["expr_ser"].frames)
    return 256
