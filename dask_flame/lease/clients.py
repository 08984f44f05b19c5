"""Clients as a leased scheduler knows them (scheduler): who is a driver, what is noted of each."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distributed.comm import Comm
from distributed.scheduler import ClientState

from dask_flame.core.distributed_internals import replace, restore
from dask_flame.core.messages import MARK, UNNUMBERED

#: Seconds later than this and the process itself was stopped, or had no time, meanwhile.
LATE = 1.0


class Alarm:
    """Calls back once this process has run for a while; started anew if it was stopped meanwhile.

    Those who wait to be heard again must not be judged by a clock that went on while nobody
    listened.
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
    """What is known of one client, connected or not.

    Attributes
    ----------
    state : ClientState
        The scheduler's own: what the client wants.
    epoch : str
        Tells this record from another of the same client, made after the first was given up.
    taken : int or None
        How many messages of its stream were read, over all its connections; None until it has
        said where its count begins.
    listening : float or None
        Since when nothing was heard of it; None while what it said is being handled.
    release : Alarm or None
        Ends what is kept for it; None while it is connected.
    garbled : bool
        Whether its last connection ended because what it said could not be unpickled here.
    """

    state: ClientState
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    taken: int | None = None
    listening: float | None = None
    release: Alarm | None = None
    garbled: bool = False

    def count(self, messages: Any) -> None:
        for message in messages if isinstance(messages, (list, tuple)) else (messages,):
            op = message.get("op") if isinstance(message, dict) else None
            if op == MARK:
                self.taken = message["n"]
            elif self.taken is not None and op not in UNNUMBERED:
                self.taken += 1


def first_alone(comm: Comm) -> None:
    """Write the first message by itself, as a Client that connects requires.

    There may be more to say at once: a client that is back wants keys from the start, and when any
    client cancels calls, distributed tells all clients of it.
    """
    write = comm.write

    async def first(messages: Any, **kwargs: Any) -> int:
        restore(comm, "write")
        written: int = await write(messages[:1], **kwargs)
        if len(messages) > 1:
            written += await write(messages[1:], **kwargs)
        return written

    replace(comm, "write", first)


def _named(client: str, *names: str) -> bool:
    # "<class>-<name>-<uuid>", or without a name "<class>-<uuid>".
    return any(client.split("-", 1)[-1].startswith(f"{name}-") for name in names)


def keeps(client: str) -> bool:
    """Whether what a client wants is kept when its connection drops: not for one a call opened."""
    return client != "fire-and-forget" and not _named(client, "worker")


def is_driver(client: str) -> bool:
    """Whether a client's id, as the scheduler knows it, is that of a driver.

    ``fire-and-forget`` is the scheduler's own; ``Client-worker-…`` are clients that calls opened,
    ``Client-observer-…`` those that only look.
    """
    return client != "fire-and-forget" and not _named(client, "worker", "observer")
