"""What a driver has said to its scheduler and might have to say again (driver). No I/O.

Messages are numbered from 0. Those that are known to be read are forgotten; those that were handed
to a connection may have been read, or lost; the others were never sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from distributed.utils import nbytes

Message = dict[str, Any]

#: Most bytes of messages remembered that were sent and are not known to be read.
REMEMBERED = 256 * 2**20


class Outbox:
    """The messages that are not known to be read, in order.

    Parameters
    ----------
    limit : int
        Bytes. Of more than this the oldest that were sent are forgotten: should they turn out to
        be lost, they are not sent again.

    Attributes
    ----------
    start : int
        Number of the first message here.
    handed : int
        Number of the first that was never handed to a connection.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        self.start = self.handed = 0
        self._limit = limit
        self._log: deque[tuple[Message, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._log)

    @property
    def next(self) -> int:
        """Number of the message that comes next."""
        return self.start + len(self._log)

    def add(self, message: Message) -> None:
        """Note a message; ``hand_over`` says that it was sent."""
        # A copy: a connection within the process hands over the message itself, to be taken apart.
        self._append(dict(message))

    def _append(self, message: Message) -> None:
        size = weight(message)
        self._log.append((message, size))
        self._bytes += size

    def hand_over(self) -> list[Message]:
        """All messages here, to be sent in this order now; from here on they count as sent."""
        self.handed = self.next
        messages = [dict(message) for message, _ in self._log]
        self._trim()
        return messages

    def handed_last(self) -> None:
        """The last message was sent, as were all before it."""
        self.handed = self.next
        self._trim()

    def _trim(self) -> None:
        while self._bytes > self._limit and len(self._log) > 1 and self.start < self.handed - 1:
            self.forget(self.start + 1)

    def forget(self, upto: int) -> None:
        """Messages below this number were read, or are given up."""
        while self._log and self.start < upto:
            self._bytes -= self._log.popleft()[1]
            self.start += 1

    def replace(self, change: Callable[[Message], Message]) -> None:
        """Put something else in a message's place."""
        log, self._log, self._bytes = self._log, deque(), 0
        for message, _ in log:
            self._append(change(message))

    def renumber(self) -> None:
        """Forget what was sent; the others are numbered from 0."""
        self.forget(self.handed)
        self.start = self.handed = 0

    def submitted(self) -> set[Any]:
        """Keys of the calls that were never sent."""
        unsent = [
            message for n, (message, _) in enumerate(self._log, self.start) if n >= self.handed
        ]
        return {key for message in unsent if submits(message) for key in message["keys"]}


def submits(message: Message) -> bool:
    """Whether a message brings calls."""
    return bool(message["op"] == "update-graph")


def weight(message: Message) -> int:
    """Bytes that a message holds on to, roughly."""
    if submits(message):
        return 1024 + sum(int(nbytes(frame)) for frame in message["expr_ser"].frames)
    return 256
