"""``stream()``: what calls report, as they report it (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from dask.typing import Key
from distributed import Client, Future
from distributed.utils import in_async_call

from dask_flame.core.distributed_internals import state_of
from dask_flame.core.option_checks import whole
from dask_flame.errors import FlameError
from dask_flame.reports.changes import Change
from dask_flame.reports.driver.futures import futures_of
from dask_flame.reports.driver.pending import ENDED, PendingReports, Reader, Report
from dask_flame.reports.driver.replica import Source, source_of
from dask_flame.reports.scheduler.store import ReportStore

#: Seconds between two looks at whether the client is still there.
_LOOK = 1.0


def stream(futures: Future | Iterable[Future], *, limit: int = 20_000) -> Stream:
    """What calls report, as they report it, until all of them have ended.

    Parameters
    ----------
    futures : Future or iterable of Future
        Calls of one client, on a FlameCluster or any other Dask cluster that has the
        :class:`Reports` plugin.
    limit : int, default 20,000
        Reports that may wait to be read. Of a reader who is slower than that, reports are left
        out: the first, the last and the extremes of each value stay, and `thinned` says of each
        report about how many were left out before it.

    Returns
    -------
    Stream
        To be used in ``for`` or in ``async for``. It gives a :class:`Report` for each call of
        :func:`dask_flame.report`, with ``task`` (or ``key``), ``runner``, ``step``, ``values``,
        ``time``, ``attempt`` and ``thinned``; those of one call in the order in which they were
        made. What was reported before comes first. It ends when every call is done, has failed or
        was cancelled, and all that they had reported was given.

    Raises
    ------
    FlameError
        The futures are not of one client, or its cluster has no :class:`Reports` plugin.
    TypeError
        They are not futures.
    PoolError
        The limit is wrong.

    Notes
    -----
    A slow reader holds up nobody. It ends early with :meth:`Stream.close`, a ``with`` block, or
    when nobody holds it any more.

    What a call reports that this one calls in turn has a key of its own, and so have methods of
    placed objects: they are in :func:`dask_flame.reports_of`, and not here.

    Examples
    --------
    >>> futures = client.map(train, rates)                                 # doctest: +SKIP
    >>> for r in dask_flame.stream(futures):                               # doctest: +SKIP
    ...     print(r.task, r.runner, r.step, r.values["loss"])
    """
    use = "for r in dask_flame.stream(client.map(train, rates)): ..."
    given, client = futures_of(futures, "stream", use)
    return Stream(given, client, whole("limit", limit, 1))


class Stream:
    """What calls report, as they report it; made by :func:`stream`."""

    def __init__(self, futures: list[Future], client: Client | None, limit: int) -> None:
        self._inbox = _Inbox({future.key for future in futures}, limit)
        # Held, as nobody else may want the calls; only here, so that they go with this.
        self._futures = futures
        self._client = client
        self._read: deque[Report] = deque()
        if client is None:
            self._inbox.end()
            return
        # In an asynchronous client what is wrong is known when it is read.
        source = None if client.asynchronous else client.sync(source_of, client)
        states = [state_of(future) for future in futures]
        client.loop.add_callback(self._inbox.follow, client, states, source)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Report:
        while not self._more():
            self._check()
            with self._inbox.news:
                self._inbox.news.wait_for(self._inbox.has_news, _LOOK)
            self._look()
        if not self._read:
            raise StopIteration
        return self._read.popleft()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Report:
        while not self._more():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._inbox.wait()
            self._look()
        if not self._read:
            raise StopAsyncIteration
        return self._read.popleft()

    def _more(self) -> bool:
        """Whether there is something to give, or the end."""
        # The order matters: what comes before the end is there when the end is seen.
        over = self._inbox.over
        while not self._read and self._inbox.pending:
            self._read.extend(self._inbox.take())
        return bool(self._read) or over

    def _check(self) -> None:
        client = self._client
        if client is not None and (client.asynchronous or in_async_call(client.loop)):
            raise FlameError(
                "this is on the client's event loop, which would wait for itself; write "
                "async for r in dask_flame.stream(futures): ..."
            )

    def _look(self) -> None:
        # A client that closes takes its event loop with it, and whatever waits there.
        if self._client is not None and self._client.status == "closed":
            self._inbox.end()

    def close(self) -> None:
        """End it: nothing is followed any more. What has come can still be read."""
        self._inbox.end()
        self._futures = []

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_inbox"):
            self._inbox.end()

    def __repr__(self) -> str:
        ended = ", ended" if self._inbox.over else ""
        return f"<Stream of {len(self._inbox.keys)} calls{ended}>"


class _Inbox:
    """What is between those who write the store and those who read; it knows no Stream.

    Attributes
    ----------
    news : threading.Condition
        Notified when there is something to take, or the end has come.
    """

    def __init__(self, keys: set[Key], limit: int) -> None:
        self.keys = keys
        self.news = threading.Condition()
        self.pending = PendingReports(limit)
        self._reader = Reader()
        self._reading = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._store: ReportStore | None = None
        self._over = False
        self._error: Exception | None = None
        self._following: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    # Those who write

    async def follow(self, client: Client, states: list[Any], source: Source | None) -> None:
        """Follow until the futures with these states are done; on the client's event loop."""
        task = asyncio.current_task()
        assert task is not None
        self._following = (asyncio.get_running_loop(), task)
        if self._over:
            return
        try:
            source = source or await source_of(client)
            self._open(source.store, states)
            for state in states:
                await state.wait()
            await source.caught_up()
        except Exception as error:
            self._error = error
        finally:
            self.end()

    def _open(self, store: ReportStore, states: list[Any]) -> None:
        self._store = store
        with store.locked():
            known = store.subscribe(self._changed)
            for state in states:
                call = known.get(state.key)
                # One that has ended, of a future that has not, is another run of the same key.
                if call is not None and (state.status != "pending" or call.state not in ENDED):
                    self.pending.add_all([state.key])
        self._notify()

    def _changed(self, change: Change) -> None:
        if change.key in self.keys:
            self.pending.add(change)
            self._notify()

    def end(self) -> None:
        """Take in nothing more; from any thread, and more than once."""
        if not self._over:
            self._over = True
            if self._store is not None:
                self._store.unsubscribe(self._changed)
            if self._following is not None:
                loop, task = self._following
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(task.cancel)
            self._notify()

    def _notify(self) -> None:
        with self.news:
            self.news.notify_all()
            for loop, event in self._waiting:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(event.set)

    # Those who read

    @property
    def over(self) -> bool:
        """Whether nothing more will come; raises what has gone wrong, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._over

    def has_news(self) -> bool:
        return bool(self.pending) or self._over

    async def wait(self) -> None:
        """Wait until there is something to take, or the end has come."""
        waiting = (asyncio.get_running_loop(), asyncio.Event())
        with self.news:
            if self.has_news():
                return
            self._waiting.add(waiting)
        try:
            await waiting[1].wait()
        finally:
            with self.news:
                self._waiting.discard(waiting)

    def take(self) -> list[Report]:
        """What came first; it may be nothing."""
        store = self._store
        if store is None:
            return []
        with self._reading:
            with store.locked():
                if not self.pending:
                    return []
                item = self.pending.take()
                if not isinstance(item, Change):
                    share, call = self.pending.share, store.get(item)
            # Writers are not held up by this.
            if isinstance(item, Change):
                return self._reader.fresh(item)
            return [] if call is None else self._reader.stored(call, share)
