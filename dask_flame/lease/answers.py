"""When a request of a Client returns, the Client knows what has come of it (driver).

What the scheduler says of futures is in a stream of its own, and may be read after the answer to a
request. So a Client that had restarted its cluster would still cancel all its futures a moment
later, and with them those of calls that were submitted since. The same goes for a call that is
submitted again as soon as it was cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from dask_flame.core import distributed_internals as internals
from dask_flame.core.messages import LEASE, MARK

if TYPE_CHECKING:
    from dask_flame.lease.resume import ResumableLink

#: Longest waits for the stream, in seconds: after a restart, and after a cancellation, which
#: must not hold up who has just interrupted a call.
_RESTARTED, _CANCELLED = 30.0, 2.0


class ClientAnswers:
    """What a Client waits for before its requests return. Used on the Client's loop.

    Each mark on the Client's stream is answered on the scheduler's, behind all that the scheduler
    said before it read the mark.

    Parameters
    ----------
    link : ResumableLink
        Its Client's ``restart`` and ``cancel`` are replaced, by attributes of this one instance;
        they behave as stock while the link is off.
    """

    def __init__(self, link: ResumableLink) -> None:
        self._link = link
        self._client = client = link.client
        self._marks: deque[asyncio.Event] = deque()
        internals.replace(client, "_restart", self._restart)
        internals.replace(client, "_cancel", self._cancel)
        internals.stream_handlers(client)["restart"] = self._restarted

    def mark(self, sender: Any, n: int) -> asyncio.Event:
        """Put a mark with this number into the stream, and return what its answer will set."""
        sender.send({"op": MARK, "n": n})
        heard = asyncio.Event()
        self._marks.append(heard)
        return heard

    def answered(self) -> None:
        """The oldest mark was answered."""
        if self._marks:
            self._marks.popleft().set()

    def dropped(self) -> None:
        """The connection is gone, and the answers with it."""
        while self._marks:
            self._marks.popleft().set()

    async def hear(self, within: float) -> None:
        """Read all that the scheduler has said by now, and what it says to all that was asked.

        Returns when that is done, after so many seconds, or when the connection drops.
        """
        posted = asyncio.Event()
        self._client.loop.add_callback(posted.set)  # behind what other threads have asked
        await posted.wait()
        sender = self._link.sender
        if sender is None or sender.closed():
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.mark(sender, self._link.outbox.handed).wait(), within)

    async def _restart(self, *args: Any, **kwargs: Any) -> None:
        try:
            await internals.stock_restart(self._client, *args, **kwargs)
        finally:
            if self._link.on:
                await asyncio.gather(*map(self._have_heard, self._all()))

    async def _cancel(self, *args: Any, **kwargs: Any) -> None:
        await internals.stock_cancel(self._client, *args, **kwargs)
        if self._link.on:
            await self.hear(_CANCELLED)

    def _all(self) -> list[ClientAnswers]:
        """The Clients of this process that are connected to the same scheduler."""
        if self._client.status != "running":
            return []
        address = self._client.scheduler.address
        links = [
            client.extensions[LEASE]
            for client in internals.clients()
            if LEASE in client.extensions
            and client.status == "running"
            and client.scheduler.address == address
        ]
        return [link.answers for link in links if link.on]

    async def _have_heard(self, other: ClientAnswers) -> None:
        here, there = asyncio.get_running_loop(), other._client.loop.asyncio_loop
        if there is here:
            await other.hear(_RESTARTED)
        elif not internals.made_asynchronous(other._client):
            # Its loop has a thread of its own; that of an asynchronous one may be held up by this.
            hearing = asyncio.run_coroutine_threadsafe(other.hear(_RESTARTED), there)
            await asyncio.wrap_future(hearing)

    def _restarted(self) -> None:
        """The scheduler has forgotten all: forget all futures, and calls that it did not know yet.

        A call that was submitted before this was heard, and read after the restart, would run for
        nobody, and its result be kept for ever.
        """
        client = self._client
        # Under this lock futures are made and their graph is handed to the loop.
        with internals.futures_lock(client):
            keys = list(client.futures)
            internals.handle_restart(client)
            if keys and self._link.on:
                internals.send_to_scheduler(
                    client, {"op": "client-releases-keys", "keys": keys, "client": client.id}
                )
