"""The driver's copy of the reports of a cluster (driver)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from distributed import Client, get_client

from dask_flame.core.option_checks import shown
from dask_flame.errors import FlameError
from dask_flame.reports.changes import Change
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.wire import FOLLOW, NAME

#: Seconds to wait before a replica that could not be renewed is requested again.
_RETRY_DELAY = 1.0


class Source(Protocol):
    """A store of reports in the driver."""

    @property
    def store(self) -> ReportStore: ...

    async def caught_up(self) -> None:
        """Wait until the store has all reports of the calls whose end is known here."""


def reports_of(client: Client | None = None) -> Any:
    """Return the reports of the calls of any Dask cluster, kept up to date.

    Parameters
    ----------
    client : distributed.Client, optional
        By default the current client.

    Returns
    -------
    ReportStore
        For a FlameCluster in this process ``cluster.reports``. Otherwise a replica of the store in
        the scheduler, which is updated until the client closes and remains readable afterwards.
        With an asynchronous client: an awaitable of it.

    Raises
    ------
    FlameError
        There is no client, or its cluster has no :class:`Reports` plugin.
    TypeError
        `client` is not a Client.

    Examples
    --------
    >>> client.register_plugin(dask_flame.Reports())
    >>> dask_flame.reports_of(client).calls
    {}
    """
    if client is None:
        try:
            client = get_client()
        except ValueError:
            raise FlameError(
                "there is no Dask client; write dask_flame.reports_of(client) with the one that "
                "the calls were submitted by"
            ) from None
    if not isinstance(client, Client):
        raise TypeError(
            f"client={shown(client)} is not a distributed.Client; write "
            "dask_flame.reports_of(client) with the one that the calls were submitted by"
        )
    return client.sync(_store_of, client)


async def _store_of(client: Client) -> ReportStore:
    return (await source_of(client)).store


async def source_of(client: Client) -> Source:
    """Return the store of reports of a client's cluster; call it on the client's event loop."""
    # Set by a FlameCluster in this process.
    own: Source | None = getattr(client.cluster, "_report_source", None)
    if own is not None:
        return own
    copy = client.extensions.get(NAME)
    if copy is None:
        copy = client.extensions[NAME] = _ClientReplica(client)
    await copy.follow()
    return copy  # type: ignore[no-any-return]


class ReportReplica:
    """A copy of a store in another process, kept up to date by its numbered changes.

    The other half is :class:`dask_flame.reports.scheduler.publisher.ReportPublisher`. Used on one
    event loop.

    Parameters
    ----------
    request : callable
        Returns an awaitable for the answer of ``ReportPublisher.follow``, or for None where the
        other process has no store.
    goes_on : callable
        Whether to request again after a connection has broken.
    store : ReportStore, optional
        The store to keep up to date; by default a new one.
    """

    def __init__(
        self,
        request: Callable[[], Awaitable[Mapping[str, Any] | None]],
        goes_on: Callable[[], bool],
        store: ReportStore | None = None,
    ) -> None:
        self.store = ReportStore() if store is None else store
        self._request = request
        self._goes_on = goes_on
        self._number = -1
        self._queued: list[tuple[int, Any]] = []
        self._loading: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        """Have the whole store, and take in its changes from now on.

        Raises
        ------
        FlameError
            The other process has no store of reports.
        OSError
            The connection broke.
        """
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(patient=False))
        await asyncio.shield(self._loading)

    async def caught_up(self) -> None:
        """Wait until nothing is missing that has arrived."""
        # Changes come before results do, on one stream; all but those that were missed.
        while self._loading is not None:
            await asyncio.wait([self._loading])

    async def close(self) -> None:
        """Request nothing more."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])

    def take(self, number: int, change: Mapping[str, Any] | None) -> None:
        """Take in a packed change; None, or a gap in the numbers, means that some are missing."""
        if self._loading is not None:
            self._queued.append((number, change))
        elif change is not None and number == self._number + 1:
            self._number = number
            self.store.take(Change.unpack(change))
        elif change is None or number > self._number:
            self._loading = asyncio.create_task(self._load(patient=True))
            # Nobody may wait for it; its error, at the end of the connection, is no news then.
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _load(self, *, patient: bool) -> None:
        # Changes that arrive meanwhile wait; no turn of the loop lies between the two.
        try:
            while not await self._ask(patient=patient):
                pass
        finally:
            self._loading = None

    async def _ask(self, *, patient: bool) -> bool:
        """Request the whole store; return False if it has to be requested again."""
        self._queued.clear()
        try:
            answer = await self._request()
        except OSError:
            if not patient or not self._goes_on():
                raise
            await asyncio.sleep(_RETRY_DELAY)
            return False
        if answer is None:
            raise FlameError(
                "this cluster has no Reports plugin, so nothing arrives that calls report; "
                "write client.register_plugin(dask_flame.Reports())"
            )
        self.store.limits = answer["limits"]
        self.store.load(answer["calls"])
        self._number = answer["number"]
        return self._took_in()

    def _took_in(self) -> bool:
        """Take in the changes that came meanwhile; return False if one is missing."""
        for number, change in self._queued:
            if change is None:
                return False
            if number > self._number:
                if number != self._number + 1:
                    return False
                self._number = number
                self.store.take(Change.unpack(change))
        return True


class _ClientReplica(ReportReplica):
    """The copy of a Dask client; used on the client's event loop."""

    def __init__(self, client: Client) -> None:
        super().__init__(self._from_scheduler, lambda: client.status in ("running", "connecting"))
        self._client = client
        self._connection: object = None  # the one on which changes come
        client.subscribe_topic(FOLLOW, lambda event: self.take(*event))

    async def follow(self) -> None:
        # The scheduler forgets clients whose connection breaks.
        if self._loading is not None or self._connection is not self._client.scheduler_comm:
            await super().follow()

    async def _from_scheduler(self) -> Mapping[str, Any] | None:
        connection = self._client.scheduler_comm
        answer: Any = await getattr(self._client.scheduler, FOLLOW)(client=self._client.id)
        if answer is not None:
            self._connection = connection
        return answer  # type: ignore[no-any-return]
