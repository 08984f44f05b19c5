"""Make a Client's requests return only after their effects have reached the Client (driver).

The scheduler reports changes of futures in a separate stream, which may be read after the answer to
a request. Without this module, a Client that has restarted its cluster would cancel all its futures
a moment later, including those of calls submitted after the restart. The same would happen to a
call that is submitted again directly after it was cancelled.
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

#: Longest waits for the stream, in seconds, after a restart and after a cancellation. The second is
#: short because the user has just interrupted a call.
_RESTARTED, _CANCELLED = 30.0, 2.0


class ClientAnswers:
    """Wait for the scheduler's stream before a Client's requests return.

    The Client sends a mark in its stream. The scheduler answers it in its own stream, after all
    messages that it sent before it read the mark. Use this on the Client's event loop only.

    Parameters
    ----------
    link : ResumableLink
        The connection to use. ``restart`` and ``cancel`` of its Client are replaced on that
        instance; they behave as in distributed while the link is off.
    """

    def __init__(self, link: ResumableLink) -> None:
        self._link = link
        self._client = client = link.client
        self._marks: deque[asyncio.Event] = deque()
        internals.replace(client, "_restart", self._restart)
        internals.replace(client, "_cancel", self._cancel)
        internals.stream_handlers(client)["restart"] = self._restarted

    def mark(self, sender: Any, n: int) -> asyncio.Event:
        """Send a mark with this number, and return the event that its answer sets."""
        sender.send({"op": MARK, "n": n})
        heard = asyncio.Event()
        self._marks.append(heard)
        return heard

    def answered(self) -> None:
        """Handle the answer to the oldest mark."""
        if self._marks:
            self._marks.popleft().set()

    def dropped(self) -> None:
        """Handle a lost connection: no mark that was sent on it will be answered."""
        while self._marks:
            self._marks.popleft().set()

    async def hear(self, within: float) -> None:
        """Read all messages that the scheduler has sent so far, and answers to earlier requests.

        Return when that is done, after ``within`` seconds, or when the connection drops.
        """
        posted = asyncio.Event()
        self._client.loop.add_callback(posted.set)  # after the requests of other threads
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
        """Return the Clients of this process that are connected to the same scheduler."""
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
            # Its loop runs in its own thread. An asynchronous Client's loop may be blocked by us.
            hearing = asyncio.run_coroutine_threadsafe(other.hear(_RESTARTED), there)
            await asyncio.wrap_future(hearing)

    def _restarted(self) -> None:
        """Forget all futures, and release calls that the scheduler may not have read yet.

        The scheduler forgets everything in a restart. A call that was submitted before this message
        arrived, and is read after the restart, would otherwise run without a future, and its result
        would never be released.
        """
        client = self._client
        # Client creates futures and sends their graph to the loop while it holds this lock.
        with internals.futures_lock(client):
            keys = list(client.futures)
            internals.handle_restart(client)
            if keys and self._link.on:
                internals.send_to_scheduler(
                    client, {"op": "client-releases-keys", "keys": keys, "client": client.id}
                )
