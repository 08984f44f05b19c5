"""Access from a Client to the reports of any cluster (driver)."""

from __future__ import annotations

import asyncio
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
    >>> client.register_plugin(dask_flame.Reports())         # doctest: +SKIP
    >>> dask_flame.reports_of(client).to_pandas()            # doctest: +SKIP
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
    replica = client.extensions.get(NAME)
    if replica is None:
        replica = client.extensions[NAME] = _Replica(client)
    await replica.follow()
    return replica  # type: ignore[no-any-return]


class _Replica:
    """Replica of the store in a client's scheduler; used on the client's event loop."""

    def __init__(self, client: Client) -> None:
        self.store = ReportStore()
        self._client = client
        self._number = -1
        self._queued: list[tuple[int, Any]] = []
        self._loading: asyncio.Task[None] | None = None
        self._connection: object = None  # the one on which changes arrive
        client.subscribe_topic(FOLLOW, self._on_event)

    async def follow(self) -> None:
        """Start to replicate the store of the scheduler.

        Raises
        ------
        FlameError
            The scheduler has no store.
        """
        if self._loading is None and self._connection is not self._client.scheduler_comm:
            # The scheduler drops the subscription when the connection breaks.
            self._loading = asyncio.create_task(self._load(patient=False))
        if self._loading is not None:
            await asyncio.shield(self._loading)

    async def caught_up(self) -> None:
        # Changes arrive before the results of calls, on the same stream, unless some were missed.
        while self._loading is not None:
            await asyncio.wait([self._loading])

    def _on_event(self, event: tuple[int, Any]) -> None:
        number, change = event
        if self._loading is not None:
            self._queued.append(event)
        elif change is not None and number == self._number + 1:
            self._number = number
            self.store.take(Change.unpack(change))
        elif change is None or number > self._number:
            self._loading = asyncio.create_task(self._load(patient=True))

    async def _load(self, *, patient: bool) -> None:
        # Changes that arrive meanwhile are queued, and applied before the loop runs anything else.
        try:
            while not await self._request(patient=patient):
                pass
        finally:
            self._loading = None

    async def _request(self, *, patient: bool) -> bool:
        """Request the whole store; return False if it must be requested again."""
        self._queued.clear()
        client, connection = self._client, self._client.scheduler_comm
        try:
            answer = await getattr(client.scheduler, FOLLOW)(client=client.id)
        except OSError:
            if not patient or client.status not in ("running", "connecting"):
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
        self._connection = connection
        return self._apply_queued()

    def _apply_queued(self) -> bool:
        """Apply the queued changes; return False if one is missing."""
        for number, change in self._queued:
            if change is None:
                return False
            if number > self._number:
                if number != self._number + 1:
                    return False
                self._number = number
                self.store.take(Change.unpack(change))
        return True
