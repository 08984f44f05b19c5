"""What a driver has said to its scheduler and might have to say again (driver). No I/O.

Messages are numbered from 0. Those that are known to be read are forgotten; those that were handed
to a connection may have been read, or lost; the others were never sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.utils import nbytes

from dask_flame.core.numbered import Unconfirmed

Message = dict[str, Any]

#: Most bytes of messages remembered that were sent and are not known to be read.
REMEMBERED = 256 * 2**20


class Outbox(Unconfirmed[tuple[Message, int]]):
    """The messages that are not known to be read, in order.

    Parameters
    ----------
    limit : int
        Bytes. Of more than this the oldest that were sent are forgotten: should they turn out to
        be lost, they are not sent again.

    Attributes
    ----------
    handed : int
        Number of the first that was never handed to a connection.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        super().__init__()
        self.handed = 0
        self._limit = limit
        self._bytes = 0

    def note(self, message: Message) -> None:
        """Keep a message; ``hand_over`` says that it was sent."""
        # A copy: a connection within the process hands over the message itself, to be taken apart.
        self._weigh(dict(message))

    def _weigh(self, message: Message) -> None:
        size = weight(message)
        self.add((message, size))
        self._bytes += size

    def hand_over(self) -> list[Message]:
        """All messages here, to be sent in this order now; from here on they count as sent."""
        self.handed = self.next
        messages = [dict(message) for message, _ in self]
        self._trim()
        return messages

    def handed_last(self) -> None:
        """The last message was sent, as were all before it."""
        self.handed = self.next
        self._trim()

    def _trim(self) -> None:
        while self._bytes > self._limit and len(self) > 1 and self.start < self.handed - 1:
            self.forget(self.start + 1)

    def forget(self, upto: int) -> None:
        """Messages below this number were read, or are given up."""
        self._bytes -= sum(size for _, size in self.confirm(upto))

    def replace(self, change: Callable[[Message], Message]) -> None:
        """Put something else in a message's place."""
        first, messages = self.start, [message for message, _ in self]
        self.clear()
        self.start, self._bytes = first, 0
        for message in messages:
            self._weigh(change(message))

    def renumber(self) -> None:
        """Forget what was sent; the others are numbered from 0."""
        self.forget(self.handed)
        self.start = self.handed = 0

    def submitted(self) -> set[Any]:
        """Keys of the calls that were never sent."""
        unsent = [message for message, _ in self.since(self.handed) if submits(message)]
        return {key for message in unsent for key in message["keys"]}


def submits(message: Message) -> bool:
    """Whether a message brings calls."""
    return bool(message["op"] == "update-graph")


def weight(message: Message) -> int:
    """Bytes that a message holds on to, roughly."""
    if submits(message):
        return 1024 + sum(int(nbytes(frame)) for frame in message["expr_ser"].frames)
    return 256
