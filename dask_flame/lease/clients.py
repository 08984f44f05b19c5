"""Records of a leased scheduler's clients, and tests for the kinds of clients (scheduler)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distributed.comm import Comm
from distributed.scheduler import ClientState

from dask_flame.core.client_ids import named
from dask_flame.core.distributed_internals import replace, restore
from dask_flame.core.messages import MARK, UNNUMBERED

#: A callback that is late by more than this (seconds): the process was suspended or starved.
LATE = 1.0


class Alarm:
    """Call back after a delay, and start again if the process was suspended in the meantime.

    While the process is suspended it cannot receive messages, so that time must not count against
    a client.
    """

    def __init__(self, delay: float, callback: Callable[[], None]) -> None:
        self._delay = delay
        self._callback = callback
        self._set()

    def _set(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._delay
        self._handle = loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        if asyncio.get_running_loop().time() - self._due > LATE:
            self._set()
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()


@dataclass
class ClientRecord:
    """The record of a client, connected or not.

    Attributes
    ----------
    state : ClientState
        The scheduler's own state of the client, with the keys that it wants.
    epoch : str
        A unique id of this record. If the client's work is released and the client comes back, its
        new record has another epoch.
    taken : int or None
        Number of messages read from its stream, over all connections; None until the client has
        sent the number to start from.
    listening : float or None
        Time of the last message; None while a message is being handled.
    release : Alarm or None
        Releases its work after the grace; None while it is connected.
    garbled : bool
        Whether its last connection ended because a message could not be unpickled.
    handed_over : bool
        Whether another process has become the driver since it registered. Its work is then kept
        until that driver takes it over, or the cluster ends.
    recovered : set
        The keys that it has taken over.
    """

    state: ClientState
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    taken: int | None = None
    listening: float | None = None
    release: Alarm | None = None
    garbled: bool = False
    handed_over: bool = False
    recovered: set[Any] = field(default_factory=set)

    def count(self, messages: Any) -> None:
        for message in messages if isinstance(messages, (list, tuple)) else (messages,):
            op = message.get("op") if isinstance(message, dict) else None
            if op == MARK:
                self.taken = message["n"]
            elif self.taken is not None and op not in UNNUMBERED:
                self.taken += 1


def first_alone(comm: Comm) -> None:
    """Write the first message by itself, as a Client that connects requires.

    More messages may be pending: a client that reconnects wants keys from the start, and when a
    client cancels calls, distributed notifies all clients.
    """
    write = comm.write

    async def first(messages: Any, **kwargs: Any) -> int:
        restore(comm, "write")
        written: int = await write(messages[:1], **kwargs)
        if len(messages) > 1:
            written += await write(messages[1:], **kwargs)
        return written

    replace(comm, "write", first)


def keeps(client: str) -> bool:
    """Return whether a lease keeps a client's work; false for clients that calls have opened."""
    return client != "fire-and-forget" and not named(client, "worker")


def is_driver(client: str) -> bool:
    """Return whether a client's id, as the scheduler knows it, belongs to a driver.

    ``fire-and-forget`` is the scheduler's own client; ``Client-worker-…`` are clients that calls
    opened; ``Client-observer-…`` are clients that only observe.
    """
    return client != "fire-and-forget" and not named(client, "worker", "observer")
