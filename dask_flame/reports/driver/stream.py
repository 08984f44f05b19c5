"""``stream()``: iterate over reports as they arrive (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from dask.typing import Key
from distributed import Client, Future
from distributed.utils import in_async_call

from dask_flame.core.distributed_internals import state_of
from dask_flame.core.option_checks import whole
from dask_flame.errors import FlameError
from dask_flame.reports.changes import Change
from dask_flame.reports.driver.futures import futures_of
from dask_flame.reports.driver.names_of import names_of
from dask_flame.reports.driver.pending import ENDED, PendingReports, Reader, Report
from dask_flame.reports.driver.replica import Source, source_of
from dask_flame.reports.scheduler.store import ReportStore

#: Seconds between two checks that the client is still open.
_CHECK_EVERY = 1.0


def stream(futures: Future | Iterable[Future], *, limit: int = 20_000) -> Stream:
    """Iterate over the reports of calls as they arrive, until all calls have ended.

    Parameters
    ----------
    futures : Future or iterable of Future
        Futures of one client, on a FlameCluster or any other Dask cluster with the
        :class:`Reports` plugin.
    limit : int, default 20,000
        Number of unread reports to keep. If the reader is slower, reports are dropped; the first,
        the last and the extremes of each metric are kept. The attribute `thinned` of a report is
        the approximate number of reports dropped before it.

    Returns
    -------
    Stream
        An iterator for ``for`` or ``async for``. It yields a :class:`Report` for each call of
        :func:`dask_flame.report`, with ``task`` (or ``key``), ``name``, ``runner``, ``step``,
        ``values``, ``time``, ``attempt`` and ``thinned``. Earlier reports come first, and reports
        of one call come in the order in which they were made. It ends when every call is done, has
        failed or
        was cancelled, and all of their reports were yielded.

    Raises
    ------
    FlameError
        The futures belong to more than one client, or the cluster has no :class:`Reports` plugin.
    TypeError
        `futures` contains something other than futures.
    PoolError
        `limit` is not a positive whole number.

    Notes
    -----
    A slow reader never blocks the calls. To end the stream early, use :meth:`Stream.close` or a
    ``with`` block, or drop the last reference to it.

    Calls that these calls submit, and methods of placed objects, have keys of their own. Their
    reports are in :func:`dask_flame.reports_of`, not here.

    Examples
    --------
    >>> futures = client.map(train, rates)
    >>> for r in dask_flame.stream(futures):
    ...     print(r.name, r.runner, r.step, r.values["loss"])
    rate=... cpu-... 0 0.9
    """
    use = "for r in dask_flame.stream(client.map(train, rates)): ..."
    given, client = futures_of(futures, "stream", use)
    return Stream(given, client, whole("limit", limit, 1))


class Stream:
    """Iterator over the reports of calls; returned by :func:`stream`.

    Parameters
    ----------
    futures : list of Future
        Futures of one client.
    client : distributed.Client or None
        Their client; None without futures.
    limit : int
        Number of unread reports to keep.
    """

    def __init__(self, futures: list[Future], client: Client | None, limit: int) -> None:
        keys = list(dict.fromkeys(future.key for future in futures))
        self._inbox = _Inbox(keys, limit, partial(names_of, client, keys))
        # Keep the calls wanted for as long as this stream exists. The inbox must hold no futures.
        self._futures = futures
        self._client = client
        self._read: deque[Report] = deque()
        if client is None:
            self._inbox.end()
            return
        # With an asynchronous client, errors are raised by the first read.
        source = None if client.asynchronous else client.sync(source_of, client)
        states = [state_of(future) for future in futures]
        client.loop.add_callback(self._inbox.follow, client, states, source)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Report:
        while not self._has_more():
            self._check_thread()
            with self._inbox.news:
                self._inbox.news.wait_for(self._inbox.has_news, _CHECK_EVERY)
            self._check_client()
        if not self._read:
            raise StopIteration
        return self._read.popleft()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Report:
        while not self._has_more():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_EVERY):
                    await self._inbox.wait()
            self._check_client()
        if not self._read:
            raise StopAsyncIteration
        return self._read.popleft()

    def _has_more(self) -> bool:
        """Return whether there is something to yield, or the stream has ended."""
        # Read `over` first: all reports that arrived before the end are then pending.
        over = self._inbox.over
        while not self._read and self._inbox.pending:
            self._read.extend(self._inbox.take())
        return bool(self._read) or over

    def _check_thread(self) -> None:
        client = self._client
        if client is not None and (client.asynchronous or in_async_call(client.loop)):
            raise FlameError(
                "this is on the client's event loop, which would wait for itself; write "
                "async for r in dask_flame.stream(futures): ..."
            )

    def _check_client(self) -> None:
        # A client that closes stops its event loop, and with it every task that waits there.
        if self._client is not None and self._client.status == "closed":
            self._inbox.end()

    def close(self) -> None:
        """Stop following the calls. Reports that have arrived can still be read."""
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
    """Connects the writers of the store with the readers; holds no reference to the Stream.

    Attributes
    ----------
    news : threading.Condition
        Notified when there is something to read, or the stream has ended.
    """

    def __init__(
        self,
        keys: Collection[Key],
        limit: int,
        names: Callable[[ReportStore], Mapping[Key, str]] = lambda store: {},
    ) -> None:
        self.keys = set(keys)
        self._name = names
        self._doubtful: set[Key] = set()
        self._named = False  # whether the reader has the present names
        self.news = threading.Condition()
        self.pending = PendingReports(limit)
        self._reader = Reader()
        self._reading = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._store: ReportStore | None = None
        self._over = False
        self._error: Exception | None = None
        self._following: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    # For writers

    async def follow(self, client: Client, states: list[Any], source: Source | None) -> None:
        """Follow the store until these futures are done; run on the client's event loop."""
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
                self._take_in(state.key)
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
                if call is None:
                    continue
                # An ended call under a pending future is an earlier run of the same key, or this
                # one, of whose end the client does not know yet.
                if state.status == "pending" and call.state in ENDED:
                    self._doubtful.add(state.key)
                else:
                    self.pending.add_all([state.key])
        self._notify()

    def _take_in(self, key: Key) -> None:
        """Read a call that had ended when the stream began, if it has not run again since."""
        if key in self._doubtful and self._store is not None:
            with self._store.locked():
                self._doubtful.discard(key)
                self.pending.add_all([key])
            self._notify()

    def _changed(self, change: Change) -> None:
        if change.key in self.keys:
            self._doubtful.discard(change.key)
            if change.what == "renewed" or (change.batch is not None and change.batch.about):
                self._named = False
            self.pending.add(change)
            self._notify()

    def end(self) -> None:
        """Stop following; may be called from any thread and more than once."""
        if not self._over:
            self._over = True
            if self._store is not None:
                self._store.unsubscribe(self._changed)
            if self._following is not None:
                loop, task = self._following
                with contextlib.suppress(RuntimeError):  # the loop has stopped
                    loop.call_soon_threadsafe(task.cancel)
            self._notify()

    def _notify(self) -> None:
        with self.news:
            self.news.notify_all()
            for loop, event in self._waiting:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(event.set)

    # For readers

    @property
    def over(self) -> bool:
        """Whether the stream has ended; raises the error that ended it, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._over

    def has_news(self) -> bool:
        return bool(self.pending) or self._over

    async def wait(self) -> None:
        """Wait until there is something to read, or the stream has ended."""
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
        """Return the oldest unread reports; possibly none."""
        store = self._store
        if store is None:
            return []
        with self._reading:
            with store.locked():
                if not self.pending:
                    return []
                if not self._named:
                    self._reader.names, self._named = self._name(store), True
                item = self.pending.take()
                if not isinstance(item, Change):
                    share, call = self.pending.share, store.get(item)
            # Outside the store's lock, so that writers do not wait.
            if isinstance(item, Change):
                return self._reader.fresh(item)
            return [] if call is None else self._reader.stored(call, share)
